/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ctrlr: a controller, as the files of the room share it. Private to lib/nvme.
 *
 * One coroutine on the app thread, the keeper (ctrlr.c), does all that changes the controller: it
 * attaches it, makes queue pairs, aborts, resets, takes events, and detaches it in the end. Others
 * leave work for it, in `work` or `orders`, and wake it.
 */
#ifndef VHOSTD_NVME_CTRLR_H
#define VHOSTD_NVME_CTRLR_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "admin.h"
#include "coroutine.h"
#include "nvme.h"
#include "qpair.h"

#define NVME_PAGE_SIZE  4096u /* CC.MPS is 0 where the device can do it, else as small as it can */
#define NVME_MAX_QUEUES 128u  /* I/O queue pairs that we would use */
#define NVME_MAX_ABORTS 4u    /* at a time */
/* Bytes of one command: what a page of SGL descriptors of 4 KiB each describes. */
#define NVME_MAX_TRANSFER (1u << 20)
/* How long the commands of a start may take together: so many admin timeouts. */
#define NVME_START_TIMEOUTS 2

/* How often a controller that has failed is tried again. Tests make it shorter. */
extern unsigned int nvme_retry_ms;

/* What the keeper is woken for: bits of nvme_ctrlr.work. */
enum nvme_work {
	NVME_WORK_GONE = 1 << 0,   /* the transport says so */
	NVME_WORK_LEAVE = 1 << 1,  /* somebody wants the device back */
	NVME_WORK_RESET = 1 << 2,  /* something is wrong with it */
	NVME_WORK_QPAIRS = 1 << 3, /* there are some to make, or to start */
	NVME_WORK_ABORT = 1 << 4,  /* there are slots with NVME_ABORT_WANTED */
	NVME_WORK_EVENTS = 1 << 5, /* asynchronous events came */
	NVME_WORK_ORDERS = 1 << 6, /* in nvme_ctrlr.orders, or to detach; nothing but a wake-up */
};

/* A request of another coroutine's: reset, disable, enable. */
struct nvme_order;

/* A command of a queue pair's that is being aborted. */
struct nvme_abort {
	struct nvme_qpair *qpair;        /* NULL: free */
	uint16_t index;                  /* of its slot */
	struct nvme_admin_slot *command; /* Abort; NULL: it is done */
	uint64_t deadline;               /* ticks */
};

/* A namespace, also one that cannot be used. */
struct nvme_known_ns {
	struct nvme_ns ns;
	bool usable;
};

struct nvme_ctrlr {
	/* set once by attach */
	char name[NVME_NAME_MAX + 1];
	char *traddr;
	const struct nvme_transport_ops *ops;
	struct nvme_transport *transport;
	struct dma_space *dma;
	struct thread *app;
	nvme_event_fn event;
	void *event_ctx;
	bool interrupts; /* wanted, and there */
	uint32_t vector_count;
	int *vectors;              /* eventfds, the transport's */
	uint32_t stride;           /* CAP.DSTRD */
	uint32_t page_size;        /* CC.MPS, bytes */
	uint32_t queue_size;       /* entries of an I/O queue */
	struct nvme_qpair *qpairs; /* [i] has the id i + 1 */
	uint32_t qpair_count;

	/* the keeper; changes only while all queue pairs are stopped */
	uint32_t sgl_rules;         /* SGLS of the identify data: 0 none */
	uint32_t *shadows, *events; /* DBBUF; NULL: none */

	/* any thread; written by the app thread */
	_Atomic uint64_t io_timeout_ticks; /* 0: none */
	_Atomic uint32_t retries;

	_Atomic uint8_t action; /* enum nvme_timeout_action */

	/* any thread */
	_Atomic uint64_t timeouts; /* so far */
	_Atomic uint32_t work;     /* NVME_WORK_ */
	atomic_bool wake_sent;
	struct thread_msg wake_msg;

	/* under lock, for a moment: who has which queue pair is decided on each one's thread */
	pthread_mutex_t lock;
	uint32_t qpairs_used;
	uint32_t qpairs_granted; /* by the device; at most qpair_count */
	bool closing;            /* no new ones */

	/* app thread */
	TAILQ_ENTRY(nvme_ctrlr) link;
	struct nvme_ctrlr_info info;
	struct nvme_tuning tuning;
	struct nvme_admin admin;
	TAILQ_HEAD(, nvme_order) orders;
	struct nvme_order *attaching;    /* NULL: it is attached */
	struct nvme_order *detaching;    /* NULL: it shall stay */
	struct completion *wake;         /* what the keeper waits for */
	struct completion *unregistered; /* the last channel has gone */

	/* the keeper */
	struct coroutine *keeper;
	uint64_t cap;            /* 0: not read yet */
	struct nvme_id_ctrl *id; /* two: as it said at the last start, and for the next one */
	bool registered;         /* as an io_device */
	bool parting;            /* it is being taken down */
	bool has_failed;         /* and that has been said */
	bool has_identity;       /* id[0] is there */
	bool running;            /* it is enabled, or was not seen to be off: it may use memory */
	bool cut_off;            /* it may not, whatever it does: its bus mastering is off */
	uint64_t
		commands_until; /* ticks: of the admin commands of what it does; 0: no such limit */
	bool starting;          /* a command that times out ends the start, and no more */
	uint64_t retry_at;      /* ticks: FAILED tries again; LIVE: queue pairs that failed do */
	uint64_t look_at;       /* ticks: the next look at CSTS */
	uint64_t health_at;     /* ticks: while there are warnings; 0: there are none */
	uint64_t scan_at;       /* ticks: namespaces that could not be read; 0: there are none */
	uint64_t keep_alive_us; /* 0: none */
	uint64_t keep_alive_at; /* ticks */
	void *dbbuf;            /* two pages */
	uint64_t dbbuf_iova;
	struct nvme_abort aborts[NVME_MAX_ABORTS];
	uint64_t aborts_wait_until; /* ticks: more time out than can be aborted; 0: no */

	/* namespace.c */
	struct nvme_known_ns *namespaces; /* ascending */
	uint32_t namespace_count;

	/* event.c: what has been told, and what is to be told */
	uint32_t events_pending; /* 1 << NVME_EVENT_ */
	bool teller_runs;
	uint8_t critical_warning;
};

/* ---- for qpair.c ---- */

/*
 * Any thread: a queue pair that nobody has, for the calling thread. It is STOPPED. NULL with errno:
 * ENODEV (gone, or being detached), ENOSPC.
 */
struct nvme_qpair *nvme_ctrlr_take_qpair(struct nvme_ctrlr *ctrlr);
/* Its thread has no requests in it, and will not touch it any more. */
void nvme_ctrlr_give_qpair(struct nvme_qpair *qpair);
/*
 * Its thread: it is there, with a channel that for_each_channel() finds (so not in the channel's
 * create()), and is STOPPED: make it, and start or fail it. Never blocks.
 */
void nvme_ctrlr_wants_qpair(struct nvme_qpair *qpair);
/*
 * Its thread: the command in slot index has timed out (once for each time it is sent), or the queue
 * is of no use (a completion that makes no sense: UINT16_MAX). What to do is the controller's choice:
 * nothing; an abort, see enum nvme_abort_state; a reset. Never blocks.
 */
void nvme_ctrlr_timed_out(struct nvme_qpair *qpair, uint16_t index);
/* The eventfd that tells of completions of that queue pair, or -1. Its thread. */
int nvme_ctrlr_interrupt(const struct nvme_qpair *qpair);
/*
 * App thread, in the keeper [waits]: Create I/O Completion Queue, with its interrupt, and
 * Submission Queue, for qpair->queue as nvme_queue_reset() left it. 0, or a negative errno with the
 * reason.
 */
int nvme_ctrlr_create_queues(struct nvme_qpair *qpair, struct errmsg *err);

/* ---- within the control path; app thread ---- */

/* "nvme NAME (TRADDR): …" */
#define ctrlr_log(level, ctrlr, format, ...)                                                       \
	log_##level("nvme %s (%s): " format, (ctrlr)->name, (ctrlr)->traddr, ##__VA_ARGS__)
#define ctrlr_err(ctrlr, err, rc, format, ...)                                                     \
	err_set(err, rc, "nvme %s (%s): " format, (ctrlr)->name, (ctrlr)->traddr, ##__VA_ARGS__)

/* What a text of ctrlr_err() says of the controller, for a line that names it already. Pure. */
const char *nvme_ctrlr_reason(const struct nvme_ctrlr *ctrlr, const struct errmsg *err);

/* Any thread: leaves work for the keeper. */
void nvme_ctrlr_work(struct nvme_ctrlr *ctrlr, uint32_t work);
/* It is to go, and nobody uses it: what the keeper waits for ends at once, with -ECANCELED. */
bool nvme_ctrlr_is_cancelled(struct nvme_ctrlr *ctrlr);
uint64_t nvme_ctrlr_admin_timeout_us(const struct nvme_ctrlr *ctrlr);
/*
 * The keeper's admin commands from now on, together, take at most so many admin timeouts; 0: each
 * for itself. So that other work does not wait for longer, whatever the device does.
 */
void nvme_ctrlr_limit_commands(struct nvme_ctrlr *ctrlr, uint32_t timeouts);
void nvme_ctrlr_set_state(struct nvme_ctrlr *ctrlr, enum nvme_state state);

/* Pure but for the time: the ticks in so many µs, and how many µs are left; 0: it is over. */
uint64_t nvme_deadline(uint64_t us);
uint64_t nvme_us_until(uint64_t deadline);

/* event.c: tells the owner, soon, in a coroutine of its own; once more, what could not be told. */
void nvme_ctrlr_tell(struct nvme_ctrlr *ctrlr, enum nvme_event event);
void nvme_ctrlr_tell_pending(struct nvme_ctrlr *ctrlr);

#endif
