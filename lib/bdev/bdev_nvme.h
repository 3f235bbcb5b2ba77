/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev_nvme: what the files of the module share. Private to lib/bdev.
 *
 * A controller has a coroutine of its own, the keeper, from beginning to end: it attaches, makes
 * and removes block devices, and detaches, one after the other, so that nothing of that needs a
 * lock. Others leave it a note and wake it.
 */
#ifndef VHOSTD_BDEV_NVME_H
#define VHOSTD_BDEV_NVME_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "bdev.h"
#include "bdev_modules.h"
#include "coroutine.h"
#include "nvme.h"

#define NVME_MODULE          "nvme"
#define BDEV_NVME_DSM_RANGES 8u /* of one command; in each request */

/* A namespace that is a block device. */
struct nvme_disk {
	/* set once */
	struct nvme_controller *controller;
	struct nvme_ctrlr *ctrlr;
	struct thread *app;
	struct bdev_ops ops;
	struct bdev *bdev;
	char uuid[BDEV_UUID_TEXT]; /* what the namespace calls itself */
	uint32_t nsid;
	uint32_t block_size;
	uint32_t block_shift;
	uint32_t dsm_ranges; /* of one command */
	uint64_t dsm_blocks; /* of one range */
	bool can_write_zeroes_unmap;

	/* any thread; set by the app thread: the namespace is another one, or none */
	_Atomic bool replaced;

	/* app thread */
	TAILQ_ENTRY(nvme_disk) link; /* in controller->disks, by nsid */
};

/* All of it: app thread. */
struct nvme_controller {
	/* set once */
	char name[NVME_NAME_MAX + 1];
	const char *trtype;
	char *traddr;
	char *subnqn;  /* "": any */
	char *hostnqn; /* "": none */
	uint32_t io_queues;
	bool interrupts;
	bool found; /* by hotplug: forgotten when it is gone */

	bool configured;          /* part of the configuration */
	struct nvme_ctrlr *ctrlr; /* NULL: not there */
	struct errmsg error;      /* why it is not; "": it has not been tried yet */
	TAILQ_HEAD(, nvme_disk) disks;
	uint32_t users;             /* calls that use ctrlr while they wait */
	uint32_t waiters;           /* calls that look at this when it has started */
	uint32_t news;              /* bit per enum nvme_event */
	bool unhealthy;             /* as was told last */
	bool ending;                /* to be detached */
	struct completion *wake;    /* the keeper waits for it */
	struct completion *started; /* the first attach has an end; NULL: nobody waits */
	bool late;                  /* who waited for that went on without it */
	int start_rc;
	struct completion *ended;    /* NULL: nobody waits */
	struct coroutine *attaching; /* in nvme_attach() */
	TAILQ_ENTRY(nvme_controller) link;
};

TAILQ_HEAD(nvme_controllers, nvme_controller);
/* In the order of their creation. */
extern struct nvme_controllers bdev_nvme_controllers;

/* The one that a client means: not one that is ending. NULL. */
struct nvme_controller *bdev_nvme_find(const char *name);
/*
 * The same, there, and held until bdev_nvme_release(); NULL with *rc and err set.
 */
struct nvme_controller *bdev_nvme_hold(const char *name, int *rc, struct errmsg *err);
void bdev_nvme_release(struct nvme_controller *controller);
/* The one at that address, or NULL. */
struct nvme_controller *bdev_nvme_at(const char *trtype, const char *traddr);
/* The same as bdev_nvme_attach(), for hotplug: it does not wait. */
int bdev_nvme_found(const char *address, bool interrupts);

/* ---- bdev_nvme_ns.c: the controller's keeper [waits] ---- */

/*
 * Makes the block devices what the namespaces are. strict: ends at the first that cannot be made,
 * with why; else that is in the log. 0 or a negative errno.
 */
int bdev_nvme_scan(struct nvme_controller *controller, bool strict, struct errmsg *err);
/* Does not wait: requests of disks that scanning will remove end with -ENODEV from now on. */
void bdev_nvme_stop_replaced(struct nvme_controller *controller);
/* All of them. */
void bdev_nvme_remove_disks(struct nvme_controller *controller);

/* ---- bdev_nvme_io.c ---- */

/* The data path's part of bdev_ops; limits that depend on the namespace are not set. */
extern const struct bdev_ops bdev_nvme_io_ops;

/* ---- bdev_nvme_json.c: app thread ---- */

/* driver_specific; ctx: a struct nvme_disk. */
json_t *bdev_nvme_describe(void *ctx);
/* "a, b" of the bits of SMART's critical warning. */
const char *bdev_nvme_warning_text(uint8_t warning, char *text, size_t size);

/* ---- bdev_nvme_hotplug.c: app thread ---- */

/* {method, params}, or NULL: it is off. */
json_t *bdev_nvme_hotplug_config(void);
void bdev_nvme_hotplug_stop(void);
/* This PCI device is not attached again by itself before it is bound anew. */
void bdev_nvme_hotplug_let_go(const char *address);
/* What the kernel tells, as below. Whether it counts; then it is looked for devices. */
bool bdev_nvme_hotplug_event(const char *event, size_t length);
/*
 * Pure. Whether an event of the kernel's (NUL-separated "KEY=value", after "action@path") says that
 * an NVMe device was bound to vfio-pci.
 */
bool bdev_nvme_uevent_is_bind(const char *event, size_t length);

#endif
