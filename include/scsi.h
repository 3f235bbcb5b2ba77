/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scsi: a SCSI target on block devices (SAM-5, SPC-4, SBC-3), for whoever carries commands from
 * initiators (lib/vhost).
 *
 * A *target* is one I_T nexus: one initiator port (the guest behind one controller) and one target
 * port of it. It has *LUNs*, each on a block device. What belongs to the disk itself (reservations,
 * mode pages, tasks in flight) is shared by all LUNs on the same block device, of whichever target:
 * two controllers on one disk are two initiators of one logical unit.
 *
 * Commands run on the thread that submits them, through that thread's channel of the LUN, with no
 * lock and no allocation for reads and writes. Few go to the app thread and come back: those that
 * change what is shared, and those that must be alone (COMPARE AND WRITE). Each outcome is reported
 * on the submitting thread.
 */
#ifndef VHOSTD_SCSI_H
#define VHOSTD_SCSI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "errmsg.h"
#include "reservation.h"
#include "thread.h"

struct scsi_target;
struct scsi_unit;
struct scsi_lun;
struct scsi_channel;
struct scsi_task;
struct scsi_tmf;

/* ---- targets and LUNs; app thread ---- */

#define SCSI_INITIATOR_MAX 127 /* bytes, without the NUL */
/* LUNs as peripheral device or flat space addressing can name them; REPORT LUNS lists them all. */
#define SCSI_LUN_NUMBERS     16384
#define SCSI_LUNS_PER_TARGET 256

/*
 * initiator: what stays the same over restarts of guest and daemon, so that reservations find it
 * again: the controller's name; copied. port: the relative target port identifier, from 1 (the
 * target's number + 1). Both together are unique. NULL: no memory.
 */
struct scsi_target *scsi_target_create(const char *initiator, uint16_t port);
/* No LUN is left, and no task or TMF that names it is in flight. */
void scsi_target_destroy(struct scsi_target *target);

/*
 * A new session of the front-end, or a reset by its driver: a power-on for this initiator. Each LUN
 * gets the unit attention; reservations stay. Nothing of the old session is in flight.
 */
void scsi_target_reset(struct scsi_target *target);

enum scsi_lun_event {
	/*
	 * The block device goes away. From now on tasks end with LOGICAL UNIT NOT SUPPORTED. The
	 * LUN is to be removed: the block device's removal waits for that.
	 */
	SCSI_LUN_GONE,
	/*
	 * CAPACITY DATA HAS CHANGED is pending: for asynchronous notification (virtio 1.2
	 * §5.6.6.3, VIRTIO_SCSI_T_PARAM_CHANGE, 0x2a, 0x09).
	 */
	SCSI_LUN_CAPACITY_CHANGED,
};
/* On the app thread; must not wait, and must not remove a LUN (a coroutine may). */
typedef void (*scsi_lun_event_fn)(void *ctx, enum scsi_lun_event event);

struct scsi_lun_opts {
	uint16_t number;         /* below SCSI_LUN_NUMBERS */
	const char *bdev;        /* its name or UUID: all LUNs of a block device share one disk */
	scsi_lun_event_fn event; /* may be NULL */
	void *ctx;
	/* No unit attention tells of it: the initiator may have had it before this process. */
	bool quiet;
};
/*
 * The other LUNs of the target get REPORTED LUNS DATA HAS CHANGED. 0, -EEXIST (the number is
 * taken), -EINVAL (number), -ENOSPC (SCSI_LUNS_PER_TARGET), -ENOTSUP (the block device's requests
 * are too big for a task), or as bdev_open().
 */
int scsi_lun_add(struct scsi_target *target, const struct scsi_lun_opts *opts,
		 struct scsi_lun **lun, struct errmsg *err);
/*
 * In a coroutine [waits]. Nothing new is submitted to it, and its channels have been put. A TMF or an
 * EXTENDED COPY that was sent to another LUN and has come to this one leaves it first; what other
 * initiators have under way is not waited for. The other LUNs of the target get REPORTED
 * LUNS DATA HAS CHANGED. The registrations of this nexus stay, up to scsi_kept_release().
 */
void scsi_lun_remove(struct scsi_lun *lun);
/* NULL: none has that number. */
struct scsi_lun *scsi_lun_find(const struct scsi_target *target, uint16_t number);
/* The first one, or the one after lun, in the order of numbers; NULL at the end. */
struct scsi_lun *scsi_lun_next(const struct scsi_target *target, const struct scsi_lun *lun);

/*
 * The REPORT LUNS well-known logical unit (SPC-4 §8.2), which every target has: for tasks and TMFs
 * whose LUN field is SCSI_LUN_REPORT_LUNS (and six bytes of 0); it has no channel. Any thread.
 */
#define SCSI_LUN_REPORT_LUNS 0xc101
struct scsi_lun *scsi_lun_well_known(void);

/*
 * Any thread while the LUN is there: the desc, for bdev_memory_map(). Who maps memory keeps the LUN
 * from being removed meanwhile. Unit events do not close it before that.
 */
struct bdev_desc *scsi_lun_desc(const struct scsi_lun *lun);

/* ---- channels ---- */

/*
 * The calling thread's way to the LUN's disk, counted; one for all LUNs on the same disk. NULL with
 * errno as io_channel_get() (ENODEV: the disk is gone).
 */
struct scsi_channel *scsi_channel_get(struct scsi_lun *lun);
/* On its thread; the tasks of whoever puts it are done. */
void scsi_channel_put(struct scsi_channel *channel);
/* On its thread, at the end of a poll: one doorbell for all that was submitted. */
void scsi_channel_flush(struct scsi_channel *channel);
/* On its thread: as bdev_release_held(). */
bool scsi_channel_release_held(struct scsi_channel *channel);

/* ---- tasks ---- */

#define SCSI_CDB_MAX   32 /* bytes; no command that is known here is longer */
#define SCSI_SENSE_MAX 64 /* bytes; what is produced here is never longer */

enum scsi_status {
	SCSI_GOOD = 0x00,
	SCSI_CHECK_CONDITION = 0x02,
	SCSI_CONDITION_MET = 0x04,
	SCSI_BUSY = 0x08,
	SCSI_RESERVATION_CONFLICT = 0x18,
	SCSI_TASK_SET_FULL = 0x28,
	SCSI_ACA_ACTIVE = 0x30,
	SCSI_TASK_ABORTED = 0x40,
};

enum scsi_outcome {
	SCSI_COMPLETE, /* status says how */
	/* The data buffers are shorter than the CDB asks for: nothing was done. */
	SCSI_OVERRUN,
	/* By a TMF or by PREEMPT AND ABORT: it has no status, and will do nothing any more. */
	SCSI_ABORTED,
	/* The same by LOGICAL UNIT RESET or I_T NEXUS RESET. */
	SCSI_RESET,
};

/* SAM-5 §8.6, in the order of virtio 1.2 §5.6.6.1. Of different threads there is no order. */
enum scsi_attribute {
	SCSI_SIMPLE,
	SCSI_ORDERED,       /* after all of that disk, and before all that comes then */
	SCSI_HEAD_OF_QUEUE, /* does not wait for ORDERED ones */
	SCSI_ACA,           /* is refused; what is none of these is SIMPLE */
};

/* Of commands that go through their unit's line. lib/scsi only. */
enum scsi_stage {
	SCSI_STAGE_NONE,
	SCSI_STAGE_AWAITED, /* the unit's coroutine waits for its end */
	SCSI_STAGE_DONE,    /* and cannot be done again: who aborts it comes too late */
};

/* Lives in the submitter's memory (a queue slot): scsi_task_size() bytes, aligned to 16. */
struct scsi_task {
	/* ---- set by the submitter before scsi_submit(), the library's until done ---- */
	struct scsi_target *target;
	/* Both NULL: the target has no such LUN. channel alone: scsi_lun_well_known(). */
	struct scsi_lun *lun;
	struct scsi_channel *channel;
	uint64_t tag;
	/*
	 * Data-out (from the initiator) and data-in (to the initiator): borrowed until done; the
	 * iovecs may be modified. What is read from there is copied before it is checked. The bytes
	 * are the sums of the lengths.
	 */
	struct iovec *out;
	struct iovec *in;
	uint32_t out_count;
	uint32_t in_count;
	uint64_t out_bytes;
	uint64_t in_bytes;
	uint8_t attribute;
	uint8_t cdb_length; /* bytes that the initiator sent, at most SCSI_CDB_MAX of them */
	_Alignas(8) uint8_t cdb[SCSI_CDB_MAX]; /* a copy; the rest of it zeroes */
	/*
	 * Called once on the submitting thread, possibly before scsi_submit() returns. The task is
	 * the submitter's again and may be reused inside.
	 */
	void (*done)(struct scsi_task *task);

	/* ---- the result, for done; and sense, below ---- */
	/* Bytes that were written to data-in from its beginning on, and consumed of data-out. */
	uint64_t transferred_in; /* from here to blocks: zeroes at the beginning */
	uint64_t transferred_out;
	uint8_t outcome; /* enum scsi_outcome */
	uint8_t status;  /* enum scsi_status, when complete */
	uint8_t sense_length;

	/* ---- the library's ---- */
	union {
		struct {
			_Atomic bool aborted;
			bool reset;    /* by a reset */
			bool in_line;  /* has not begun: waits for its turn */
			uint8_t stage; /* enum scsi_stage */
		};
		uint32_t marks; /* not 0: any of them */
	};
	uint8_t *buffer; /* malloc()ed, of commands that need one */
	uint64_t lba;    /* first block that it reads or writes … */
	uint64_t blocks; /* … and how many */
	const struct scsi_command *command;
	LIST_ENTRY(scsi_task) link; /* on its channel */
	bool returned;              /* app thread */
	/* of commands that go piece by piece */
	const struct scsi_plan *plan;
	uint64_t position;     /* blocks done */
	uint64_t piece_blocks; /* at most */
	uint8_t write_flags;   /* enum bdev_request_flags */
	uint64_t late_ticks;   /* when the last task here began that others had kept waiting */
	struct iovec bounce;
	/* of commands that run on the app thread, or alone */
	struct thread *origin; /* where it came from, and goes back to */
	TAILQ_ENTRY(scsi_task) line_link;
	struct thread_msg msg;
	uint8_t sense[SCSI_SENSE_MAX];  /* of the result */
	_Alignas(16) uint8_t request[]; /* struct bdev_request */
};

/*
 * Bytes; the same for all block devices, so that LUNs may come while tasks are there. Any thread.
 */
size_t scsi_task_size(void);

/*
 * On the channel's thread, or, without a LUN, on any. What the task does may wait for
 * scsi_channel_flush() before the device sees it.
 */
void scsi_submit(struct scsi_task *task);

/* ---- task management ---- */

/*
 * Visits of all of a unit's channels, one after the other; each may wait there for tasks to end.
 * lib/scsi only.
 */
struct scsi_walk {
	struct scsi_unit *unit;
	/* Which tasks, and whether to abort them. */
	const struct scsi_lun *lun;        /* NULL: of any */
	const struct scsi_nexus_id *nexus; /* NULL: of any */
	const struct scsi_task *except;    /* NULL, or one that is not meant */
	/* NULL, or who aborts them: the others hear of it. */
	const struct scsi_target *by;
	uint64_t tag;
	bool by_tag, aborts, resets; /* aborts: and that is a reset */
	/* Whether the visit has to wait for that task; NULL: it finds tasks, and does not wait. */
	bool (*waits_for)(const struct scsi_walk *walk, const struct scsi_task *task);
	uint32_t found;
	/* app thread */
	void (*over)(struct scsi_walk *walk); /* after the last visit; what was aborted is over */
	bool done;
	struct thread_msg msg;
	/* the thread that the walk is on */
	struct io_channel_iter *iter;
	LIST_ENTRY(scsi_walk) link; /* on the channel where it waits */
};

enum scsi_tmf_function {
	SCSI_ABORT_TASK,
	SCSI_ABORT_TASK_SET,
	SCSI_CLEAR_ACA,
	SCSI_CLEAR_TASK_SET,
	SCSI_I_T_NEXUS_RESET, /* all LUNs of the target */
	SCSI_LOGICAL_UNIT_RESET,
	SCSI_QUERY_TASK,
	SCSI_QUERY_TASK_SET,
	SCSI_TMF_FUNCTIONS,
};
enum scsi_tmf_response {
	/* Also: what was to be aborted is over, and its outcome was reported. */
	SCSI_FUNCTION_COMPLETE,
	SCSI_FUNCTION_SUCCEEDED, /* a query found something */
	SCSI_FUNCTION_REJECTED,
	SCSI_INCORRECT_LUN,
};

/*
 * Lives in the submitter's memory until done, which runs once on the submitting thread, never
 * inside scsi_tmf_submit(). Its target and LUN stay until then (scsi_lun_remove() sees to that).
 */
struct scsi_tmf {
	uint8_t function; /* enum scsi_tmf_function */
	uint8_t response; /* enum scsi_tmf_response, for done */
	struct scsi_target *target;
	struct scsi_lun *lun; /* NULL: the target has no such LUN; I_T_NEXUS_RESET: ignored */
	uint64_t tag;         /* of the task, for ABORT TASK and QUERY TASK */
	void (*done)(struct scsi_tmf *tmf);

	/* the library's */
	uint32_t next_number;
	struct scsi_walk walk;
	struct thread *origin; /* where it came from, and goes back to */
	struct thread_msg msg;
};
/* On any lightweight thread. */
void scsi_tmf_submit(struct scsi_tmf *tmf);

/*
 * What survives a restart: scsi_kept_start(), scsi_kept_config_json(), scsi_kept_restore() and
 * scsi_kept_forget() of reservation.h; a disk is open while it has LUNs.
 */

#endif
