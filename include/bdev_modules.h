/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * bdev_modules: how block devices come to be. All calls: app thread, in a coroutine [waits];
 * strings are copied.
 */
#ifndef VHOSTD_BDEV_MODULES_H
#define VHOSTD_BDEV_MODULES_H

#include <stdbool.h>
#include <stdint.h>

#include "bdev.h"
#include "nvme.h"

/* Data goes nowhere: writes succeed, reads leave the buffer as it is. */
struct bdev_null_opts {
	const char *name;
	const char *uuid; /* NULL: random */
	uint64_t num_blocks;
	uint32_t block_size; /* 512 … 65536, a power of two */
};
int bdev_null_create(const struct bdev_null_opts *opts, struct bdev **bdev, struct errmsg *err);
/*
 * Does not wait. Running guests see the new size. -ENODEV: no null bdev of that name; -EINVAL:
 * smaller than it is, which would take blocks from under guests, or too large.
 */
int bdev_null_resize(const char *name, uint64_t size_mib, struct errmsg *err);

/* Memory of the daemon, zeroed, gone when it ends. */
struct bdev_malloc_opts {
	const char *name; /* NULL: the first free "Malloc<n>" */
	const char *uuid;
	uint64_t num_blocks;
	uint32_t block_size;
	uint32_t physical_block_size; /* bytes, as guests are told; 0: the block size */
};
int bdev_malloc_create(const struct bdev_malloc_opts *opts, struct bdev **bdev, struct errmsg *err);

/*
 * A regular file or block device through io_uring. Direct I/O where the file system allows it.
 * Writable ones are locked (OFD lock) against a second daemon and QEMU; read-only ones share with
 * other readers. Errors, each naming the file: -ENOENT, -EACCES, -EISDIR, -EINVAL (FIFO or other
 * kind, empty, size not a multiple of the block size), -EAGAIN (locked), -EBUSY (a block device
 * that the system uses, e.g. mounted), -EROFS, … The two that may pass when the kernel is done with
 * a killed daemon are answered after a second.
 */
struct bdev_uring_opts {
	const char *name;
	const char *filename; /* made absolute in the configuration */
	const char *uuid;
	/* "bdev_uring_create" or "bdev_aio_create": what the saved configuration calls */
	const char *method;
	uint32_t block_size; /* 0: the device's logical block size, 512 for files */
	bool read_only;
	/*
	 * A kernel thread takes the requests out of the rings, so that nobody makes a system call
	 * while there is work: one thread per bdev, on a CPU without a reactor if there is one,
	 * which spins until sqpoll_idle_ms after the last request.
	 */
	bool sqpoll;
	uint32_t sqpoll_idle_ms; /* with sqpoll; 0: BDEV_URING_SQPOLL_IDLE_MS */
};
#define BDEV_URING_SQPOLL_IDLE_MS 10
int bdev_uring_create(const struct bdev_uring_opts *opts, struct bdev **bdev, struct errmsg *err);
/*
 * Looks at the file's size again and resizes the bdev; running guests see the new size. -ENODEV: no
 * uring bdev of that name; -EBUSY: the file is smaller, and the bdev open: its size stays, since
 * its users count on it.
 */
int bdev_uring_rescan(const char *name, struct errmsg *err);

/*
 * On top of another block device, which it uses like others do: it is removed with it, and has its
 * size. Latencies, each on top of the lower device's: of WRITE and WRITE_ZEROES those of writes; of
 * each hundred on a thread one has the p99 latency, and the others the "average" one.
 */
enum bdev_delay {
	BDEV_DELAY_AVG_READ,
	BDEV_DELAY_P99_READ,
	BDEV_DELAY_AVG_WRITE,
	BDEV_DELAY_P99_WRITE,
	BDEV_DELAYS,
};
struct bdev_delay_opts {
	const char *name;
	const char *uuid; /* NULL: random */
	const char *base; /* name or uuid of the lower one */
	uint64_t latency_us[BDEV_DELAYS];
};
int bdev_delay_create(const struct bdev_delay_opts *opts, struct bdev **bdev, struct errmsg *err);
/*
 * kind: "avg_read", "p99_read", "avg_write", "p99_write". From now on, also for requests under way.
 * -ENODEV: no delay bdev of that name; -EINVAL, -ENOMEM.
 */
int bdev_delay_update(const char *name, const char *kind, uint64_t latency_us, struct errmsg *err);

/* The same way on top of another one: fails as it is told. */
struct bdev_error_opts {
	const char *name; /* NULL: "EE_" and the name of the lower one */
	const char *uuid;
	const char *base;
};
int bdev_error_create(const struct bdev_error_opts *opts, struct bdev **bdev, struct errmsg *err);
struct bdev_error_injection {
	/*
	 * "read", "write", "flush", "unmap", "write_zeroes", "all"; "clear": nothing any more, and
	 * what is pending fails (-EIO)
	 */
	const char *io_type;
	/*
	 * "failure" (-EIO), "nomem" (-ENOMEM), "pending" (until "clear", a RESET or the end of the
	 * device), "corrupt_data" (READ and WRITE): the byte at corrupt_offset of each request is
	 * XORed with corrupt_value
	 */
	const char *error_type;
	uint32_t count;       /* of requests, for each type; in place of what is left */
	uint32_t queue_depth; /* only while the thread has so many others in the lower device */
	uint64_t corrupt_offset;
	uint8_t corrupt_value; /* not 0 */
};
/* -ENODEV: no error bdev of that name; -EINVAL, -ENOMEM. */
int bdev_error_inject(const char *name, const struct bdev_error_injection *injection,
		      struct errmsg *err);

/*
 * NVMe controllers, by name; each namespace of one is a block device <name>n<nsid>. Namespaces come
 * and go with what the device says. A controller that disappears loses its block devices; while it
 * is in the configuration it is tried again every BDEV_NVME_RETRY_US, and has them again when it is
 * back.
 */
#define BDEV_NVME_RETRY_US 3000000u
struct bdev_nvme_opts {
	const char *name;   /* at most NVME_NAME_MAX bytes */
	const char *trtype; /* "PCIe" or "VFIOUSER", in any case */
	const char *traddr; /* PCI address; or absolute path of a socket or its folder */
	/* Not NULL or "": the controller must be of this subsystem. */
	const char *subnqn;
	const char *hostnqn; /* only said again to who asks; may be NULL */
	uint32_t io_queues;  /* at most so many; 0: as many as the device has */
	bool interrupts;     /* threads can sleep while the device works */
	/* One that is not there now is no error; it is tried again. */
	bool keep_trying;
};
/*
 * Answers when its block devices are there, or it is not. 0, -EEXIST (the name, the address, or the
 * name of a block device), -EINVAL, or what nvme_attach() failed with.
 */
int bdev_nvme_attach(const struct bdev_nvme_opts *opts, struct errmsg *err);
/*
 * Removes its block devices, whoever uses them (their users are told), and lets the device go.
 * -ENODEV, -EBUSY (somebody else does so).
 */
int bdev_nvme_detach(const char *name, struct errmsg *err);
/* As nvme_reset() etc.; -ENODEV also while it is not there. */
int bdev_nvme_reset(const char *name, struct errmsg *err);
int bdev_nvme_enable(const char *name, struct errmsg *err);
int bdev_nvme_disable(const char *name, struct errmsg *err);

/* Does not wait: array of its block devices' names, by nsid. NULL: no such controller. */
json_t *bdev_nvme_names_json(const char *name);
/* Does not wait: array of controllers (NULL: all). NULL: none of that name. */
json_t *bdev_nvme_controllers_json(const char *name);
/* SMART data. NULL with *rc a negative errno. */
json_t *bdev_nvme_health_json(const char *name, int *rc, struct errmsg *err);

/* For all controllers, those that are there too; but queue_size only for later ones. */
struct bdev_nvme_settings {
	struct nvme_tuning tuning;
	uint32_t queue_size; /* nvme_opts */
};
/* These do not wait, and may be called at any time. */
void bdev_nvme_get_settings(struct bdev_nvme_settings *settings);
void bdev_nvme_set_settings(const struct bdev_nvme_settings *settings);
/* "none", "abort", "reset". 0 or -EINVAL. */
int bdev_nvme_parse_action(const char *text, enum nvme_timeout_action *action);

/*
 * While enabled, NVMe devices of this machine that are bound to vfio-pci, now or later, are
 * attached by themselves, as nvme-<address>; they are not part of the configuration. period_us: how
 * often the kernel's events are looked at; 0: BDEV_NVME_HOTPLUG_US. 0 or a negative errno (no
 * events from the kernel).
 */
#define BDEV_NVME_HOTPLUG_US 100000u
int bdev_nvme_set_hotplug(bool enable, uint64_t period_us, bool interrupts, struct errmsg *err);

/* Does not wait: array of {method, params}. */
json_t *bdev_nvme_config_json(void);
/* [waits] Detaches all controllers. Before bdev_lib_fini(). */
void bdev_nvme_fini(void);

#endif
