/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme: NVMe controllers, driven from user space and polled (NVM Express Base Specification 1.4 and
 * 2.0, NVM Command Set). What reaches a controller is a transport, nvme_transport.h.
 *
 * The control path (attach, reset, admin commands) runs on the app thread, in coroutines [waits].
 * The data path runs on any thread, through that thread's own I/O queue pair, with no lock and no
 * allocation.
 */
#ifndef VHOSTD_NVME_H
#define VHOSTD_NVME_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "dma.h"
#include "errmsg.h"
#include "nvme_spec.h"
#include "thread.h"

#define NVME_NAME_MAX 63 /* bytes, without the NUL */

struct nvme_ctrlr;
struct nvme_qpair;
struct nvme_request;

/* ---- controllers; app thread ---- */

enum nvme_timeout_action {
	NVME_TIMEOUT_NONE,  /* only says so in the log */
	NVME_TIMEOUT_ABORT, /* Abort; a reset when that does not end the request */
	NVME_TIMEOUT_RESET,
};

/* What may change while a controller is there. */
struct nvme_tuning {
	enum nvme_timeout_action action;
	uint64_t io_timeout_us;    /* from submission on; 0: for ever */
	uint64_t admin_timeout_us; /* of admin commands; 0: NVME_ADMIN_TIMEOUT_US */
	/*
	 * How often a request is sent again, after a reset, or with a status that says that it may
	 * work then (no DNR, not of the media): at once, then after 100 ms, 200 ms … 1.6 s. At
	 * most NVME_RETRIES_MAX.
	 */
	uint32_t retries;
};
#define NVME_IO_TIMEOUT_US    30000000u
#define NVME_ADMIN_TIMEOUT_US 10000000u
#define NVME_RETRIES          4u
#define NVME_RETRIES_MAX      255u

struct nvme_opts {
	const char *name; /* in messages, at most NVME_NAME_MAX bytes; copied */
	const char *trtype;
	const char *traddr;
	uint32_t io_queues;  /* at most so many queue pairs; 0: as many as the device has */
	uint32_t queue_size; /* entries of each, at most what the device can; 0: NVME_QUEUE_SIZE */
	/* MSI-X: lets threads sleep while the device works. Costs an interrupt per completion. */
	bool interrupts;
	struct nvme_tuning tuning;
};
#define NVME_QUEUE_SIZE 256u

enum nvme_event {
	NVME_EVENT_NAMESPACES, /* nvme_ns_next() says something else than before */
	/*
	 * Surprise removal, or the kernel wants the device back (and it was shut down in order):
	 * all requests end with -ENODEV, submitted ones too. Told once. Detach it, soon.
	 */
	NVME_EVENT_GONE,
	NVME_EVENT_STATE,  /* nvme_ctrlr_info.state has changed */
	NVME_EVENT_HEALTH, /* SMART: nvme_get_health() has a critical warning, or none any more */
	/*
	 * NVME_EVENT_NAMESPACES is to come. A namespace may have the number of another one, whose
	 * requests must not go there: see nvme_request.revoked. After a reset the queue pairs go on
	 * when this returns.
	 */
	NVME_EVENT_CHANGING,
	NVME_EVENTS,
};
/*
 * NVME_EVENT_CHANGING: app thread; it must not wait. The others:
 * App thread, in a coroutine of the controller's [waits], one event after the other. It may wait
 * for requests, and for nvme_admin(), nvme_reset() …; it must not detach the controller, nor wait
 * for one that does (another may).
 */
typedef void (*nvme_event_fn)(void *ctx, enum nvme_event event);

/*
 * [waits] Opens the transport, resets and starts the controller, finds its namespaces. Bounded by
 * CAP.TO and the admin timeout. event may be NULL. 0; what nvme_transport_ops.open answers;
 * -EINVAL (its registers or identify data make no sense: err says which), -ETIMEDOUT (not ready in
 * time), -EIO (a command failed), -ENOMEM, -ECANCELED. A transport of that address that is attached
 * already: -EEXIST.
 */
int nvme_attach(const struct nvme_opts *opts, nvme_event_fn event, void *ctx,
		struct nvme_ctrlr **ctrlr, struct errmsg *err);
/*
 * [waits] Every queue pair is put, or will be soon: it waits for that. Ends resets under way; tells
 * the device (CC.SHN) and waits until it has written what it caches, at most
 * RTD3E or 10 s; then lets it go. In a coroutine that is cancelled it does not wait: all of that
 * happens nevertheless, and the controller must not be used any more. No event is told from now on,
 * but the one that is being told.
 */
void nvme_detach(struct nvme_ctrlr *ctrlr);

/*
 * [waits] 0, -ENODEV (or it is being detached), -EBUSY (disabled), or why the controller did not
 * come back; one that has failed is tried again. -ECANCELED: it goes on, or is being detached.
 */
int nvme_reset(struct nvme_ctrlr *ctrlr, struct errmsg *err);
/*
 * [waits] Disabled: the controller is off, requests wait (or time out) until it is enabled again.
 * -EALREADY.
 */
int nvme_disable(struct nvme_ctrlr *ctrlr, struct errmsg *err);
int nvme_enable(struct nvme_ctrlr *ctrlr, struct errmsg *err);
void nvme_tune(struct nvme_ctrlr *ctrlr, const struct nvme_tuning *tuning);

enum nvme_state {
	NVME_LIVE,
	NVME_RESETTING,
	NVME_DISABLED,
	NVME_FAILED, /* did not come back: requests end with -EIO; it tries again now and then */
	NVME_GONE,
};

struct nvme_ctrlr_info {
	enum nvme_state state;
	const char *trtype, *traddr;
	uint32_t version; /* VS */
	uint16_t vendor_id, subsystem_vendor_id, cntlid;
	char model[41], serial[21], firmware[9]; /* without the padding, printable */
	char subnqn[224];
	uint64_t max_transfer; /* bytes of one command's data */
	bool write_cache;      /* volatile; it may be off */
	uint16_t oncs;         /* NVME_CTRL_ONCS_ */
	uint16_t fuses;
	bool sgl;
	bool shadow_doorbells;
	uint32_t max_dsm_ranges;   /* of one Dataset Management: 1 … 256 */
	uint64_t max_dsm_blocks;   /* of one range */
	uint64_t max_write_zeroes; /* bytes; 0: no limit but that of the command */
	uint32_t io_queues;        /* that there can be */
	uint32_t io_queues_used;
	uint64_t resets, timeouts, aborts; /* so far */
};
const struct nvme_ctrlr_info *nvme_get_info(struct nvme_ctrlr *ctrlr);
/* Any thread; as long as it is attached. */
struct dma_space *nvme_dma_space(struct nvme_ctrlr *ctrlr);

/* A namespace that can be used. Those that cannot are named in the log once. */
struct nvme_ns {
	uint32_t nsid;
	uint32_t block_size;          /* bytes, 512 … 65536, a power of two */
	uint32_t physical_block_size; /* NPWG and AWUPF, the smaller; else block_size */
	uint64_t blocks;
	uint64_t boundary;                     /* bytes: NOIOB; 0: none */
	uint32_t discard_granularity;          /* bytes: NPDG; 0: unknown */
	bool read_only;                        /* write protected */
	bool zeroes_after_discard;             /* DLFEAT */
	bool can_write_zeroes_unmap;           /* DLFEAT: DEAC */
	uint8_t eui64[8], nguid[16], uuid[16]; /* all zeroes: none */
};
/* The one after nsid (0: the first), or NULL. Valid until the caller waits. */
const struct nvme_ns *nvme_ns_next(struct nvme_ctrlr *ctrlr, uint32_t nsid);

/* [waits] 0 or a negative errno. */
int nvme_get_health(struct nvme_ctrlr *ctrlr, struct nvme_smart_log *health);
/* [waits] At most *count entries, the newest first; sets *count. */
int nvme_get_errors(struct nvme_ctrlr *ctrlr, struct nvme_error_log_page *errors, uint32_t *count);

/* The words of a command that its submitter chooses; the rest is the driver's. */
struct nvme_command {
	uint8_t opcode;
	uint8_t fuse; /* 0, NVME_SQE_FUSED_FIRST or _SECOND */
	uint32_t nsid;
	uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};

/*
 * [waits] An admin command. data (any memory, at most NVME_ADMIN_DATA_MAX bytes; NULL: none) goes
 * the way that the opcode's last two bits say. result: dword 0 of the completion; may be NULL.
 * 0, -ETIMEDOUT (it was aborted, or the controller reset), -EIO (the controller broke down), -EBUSY
 * (it is disabled, failed, or in the middle of a reset), -EAGAIN (too many at a time), -ENODEV,
 * -ECANCELED (this coroutine is; the command goes on), or nvme_status_errno(); *status (may be
 * NULL) has the status then.
 */
#define NVME_ADMIN_DATA_MAX 4096u
int nvme_admin(struct nvme_ctrlr *ctrlr, const struct nvme_command *command, void *data,
	       uint32_t length, uint32_t *result, uint16_t *status);

/* ---- the data path ---- */

/*
 * SCT << 8 | SC as in a completion, without phase, CRD and More; NVME_DNR: do not retry. 0:
 * good.
 */
#define NVME_STATUS_MASK 0x7ffu
#define NVME_DNR         0x4000u
/* Pure. The errno that keeps its meaning up to the guest, as bdev.h's; 0 for 0. */
int nvme_status_errno(uint16_t status);
/* Pure. "Invalid Field in Command", or "status 0x123". A constant string, or one per thread. */
const char *nvme_status_name(uint16_t status);

/*
 * Any thread: its queue pair, counted. NULL with errno as io_channel_get(), or ENOSPC: all that the
 * device has are in use. It may take requests at once; they wait until it is there.
 */
struct nvme_qpair *nvme_qpair_get(struct nvme_ctrlr *ctrlr);
/* On its thread; no request of the caller's is in flight. */
void nvme_qpair_put(struct nvme_qpair *qpair);

/*
 * rc: 0 or a negative errno (nvme_status_errno(); -ETIMEDOUT, -ENODEV, -EIO: the controller is
 * failed). request->status: the last status of the device, or 0.
 */
typedef void (*nvme_done_fn)(struct nvme_request *request, int rc);

/* In the submitter's memory until done. */
struct nvme_request {
	/* Set by the submitter, unchanged until done. */
	struct nvme_command command;
	uint32_t length; /* bytes of data; 0: none. At most max_transfer. */
	uint32_t iovcnt;
	/*
	 * Their sum is at least length. Memory of the device's dma_space is used in place; other
	 * memory, and what PRPs cannot describe where the device has no SGLs, is copied. Borrowed.
	 */
	const struct iovec *iov;
	/*
	 * On the qpair's thread, once; never before nvme_qpair_submit() returns. The request is the
	 * submitter's again.
	 */
	nvme_done_fn done;
	/*
	 * NULL, or the submitter's: once it is true the request is not sent, be it for the first
	 * time or again. One that waits ends with -ENODEV, one that the device has failed with that.
	 */
	const _Atomic bool *revoked;

	/* The driver's. */
	uint16_t status;
	uint16_t cid;
	uint8_t retries;
	uint8_t state;
	uint64_t submit_ticks;
	struct nvme_request *next;
};

/*
 * On the qpair's thread: takes the request. The device hears of it at the next nvme_qpair_flush(),
 * or when the queue is full. A full queue makes it wait, in order.
 */
void nvme_qpair_submit(struct nvme_qpair *qpair, struct nvme_request *request);
void nvme_qpair_flush(struct nvme_qpair *qpair);
/*
 * The same for a fused pair (NVMe 1.4 §6.2: Compare and Write), where nvme_ctrlr_info.fuses has it:
 * one behind the other in the queue, sent again as a pair when the device says that it failed. Both
 * end, the first one first, each through its own done. A pair that is under way when the controller
 * is reset ends with -EIO or -ETIMEDOUT: it may have been carried out, and would find other blocks
 * than it is to compare.
 */
void nvme_qpair_submit_fused(struct nvme_qpair *qpair, struct nvme_request *first,
			     struct nvme_request *second);
/* Completions are taken by a poller of the thread's, which calls done. */

/* Fills command for a read, write, compare, verify or write zeroes. blocks: 1 … 65536. Pure. */
static inline void
nvme_command_range(struct nvme_command *command, uint8_t opcode, uint32_t nsid, uint64_t slba,
		   uint32_t blocks, uint16_t control)
{
	*command = (struct nvme_command){.opcode = opcode,
					 .nsid = nsid,
					 .cdw10 = (uint32_t)slba,
					 .cdw11 = (uint32_t)(slba >> 32),
					 .cdw12 = (uint32_t)control << 16 | (blocks - 1)};
}

struct nvme_qpair_stats {
	uint64_t commands;  /* sent, those sent again too */
	uint64_t doorbells; /* stores to the device's registers */
	uint64_t copied;    /* requests whose data was copied */
	uint64_t waited;    /* requests that found the queue full */
};
/* On its thread. */
void nvme_qpair_get_stats(const struct nvme_qpair *qpair, struct nvme_qpair_stats *stats);

#endif
