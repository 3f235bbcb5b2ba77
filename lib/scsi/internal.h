/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of lib/scsi share. Private to the room. */
#ifndef VHOSTD_SCSI_INTERNAL_H
#define VHOSTD_SCSI_INTERNAL_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "bdev.h"
#include "big_endian.h"
#include "coroutine.h"
#include "iovecs.h"
#include "reservation.h"
#include "scsi.h"
#include "scsi_codes.h"

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)
#define load(variable)      atomic_load_explicit(&(variable), memory_order_relaxed)

/* Of a block device's request in a task. Whoever needs more is refused when its LUN is added. */
#define SCSI_REQUEST_ROOM 1024
/* Bytes of a parameter list. */
#define SCSI_LIST_MAX 65536
/* Rows of the table of commands. */
#define SCSI_COMMANDS_MAX 96
/* VPD page B0h, what lists and buffers of ours are bounded by. */
#define SCSI_UNMAP_DESCRIPTORS    256
#define SCSI_WRITE_SAME_MAX_BYTES (256u << 20)
#define SCSI_COMPARE_MAX_BYTES    (128u << 10)

/* ---- sense data, SPC-4 §4.5 ---- */

struct scsi_sense {
	uint8_t key;
	uint16_t code;
	bool has_information;
	uint64_t information;
	/* ILLEGAL REQUEST: the sense key specific field pointer (SPC-4 §4.5.2.4.2). */
	bool has_field, field_in_cdb;
	uint16_t field;
	int8_t field_bit; /* -1: the whole byte */
};

/*
 * Writes the sense data; returns the bytes, at most SCSI_SENSE_MAX. Fixed format has room for 32
 * bits of information; more than that is left out.
 */
size_t scsi_sense_put(const struct scsi_sense *sense, bool descriptor, uint8_t *bytes);

/* ---- commands ---- */

enum scsi_command_flags {
	SCSI_CMD_ACTION = 1 << 0, /* has a service action in byte 1 */
	SCSI_CMD_NO_UA = 1 << 1,  /* runs whatever unit attention is pending (SPC-4 §5.14) */
	SCSI_CMD_WRITES = 1 << 2, /* the medium: refused when it is write protected */
	SCSI_CMD_APP = 1 << 3,    /* the handler runs on the app thread, in the unit's coroutine */
	SCSI_CMD_EXCLUSIVE = 1 << 4, /* while it runs nobody else writes what it reads and writes */
	SCSI_CMD_NO_LUN = 1 << 5,    /* has an answer also where there is no LUN */
	SCSI_CMD_WELL_KNOWN = 1 << 6, /* has an answer at the REPORT LUNS well-known LUN */
	/* There only where the block device can do it; as they are in scsi_unit.lacks. */
	SCSI_CMD_DISCARD = 1 << 7,
	SCSI_CMD_ATOMIC = 1 << 8,
	SCSI_CMD_RANGE = 1 << 9,   /* of blocks, where CDBs of that length have it */
	SCSI_CMD_TO_END = 1 << 10, /* 0 blocks are all up to the end */
	/* Runs in spite of a reservation when bit 0 of byte 4 is 0, or 1. */
	SCSI_CMD_PASSES_0 = 1 << 11,
	SCSI_CMD_PASSES_1 = 1 << 12,
};

/*
 * On the task's thread. Whether the task is over; else scsi_finish() comes later. SCSI_CMD_APP: on
 * the app thread, fills in the result and returns true [waits].
 */
typedef bool scsi_handler(struct scsi_task *task);

struct scsi_command {
	uint8_t opcode;
	uint8_t action;
	uint8_t length; /* bytes of the CDB */
	uint8_t access; /* enum scsi_access */
	uint16_t flags;
	/* Bits of the CDB that are looked at; all ones behind its end. SPC-4 §6.27.3 */
	_Alignas(8) uint8_t usage[16];
	scsi_handler *run;
};

/* NULL: its operation code is unknown, or only its service action. */
const struct scsi_command *scsi_command_find(const uint8_t *cdb);
/* By operation code, the first of its service actions; NULL: unknown. Set once. */
extern const struct scsi_command *scsi_commands[256];
const struct scsi_command *scsi_command_next(const struct scsi_command *command);
/* Once, on the app thread, before there are tasks. */
void scsi_table_init(void);

/* ---- unit attentions ---- */

/* In the order in which they are reported (SAM-5 §5.14.5); bits of scsi_lun.alerts. */
enum scsi_attention {
	SCSI_UA_POWER_ON,
	SCSI_UA_LUN_RESET,
	SCSI_UA_NEXUS_LOSS,
	SCSI_UA_COMMANDS_CLEARED,
	SCSI_UA_RESERVATIONS_PREEMPTED,
	SCSI_UA_RESERVATIONS_RELEASED,
	SCSI_UA_REGISTRATIONS_PREEMPTED,
	SCSI_UA_MODE_CHANGED,
	SCSI_UA_CAPACITY_CHANGED,
	SCSI_UA_LUNS_CHANGED,
	SCSI_ATTENTIONS,
};
/* What else scsi_lun.alerts tells of. */
#define SCSI_ALERT_CONFLICTS (1u << 29) /* some commands conflict with reservations */
#define SCSI_ALERT_PROTECTED (1u << 30) /* the medium may not be written */
#define SCSI_ALERT_GONE      (1u << 31) /* the block device */

/* ---- targets, LUNs, units ---- */

/* An EXTENDED COPY that is under way, or whose outcome is held for RECEIVE COPY STATUS. */
struct scsi_copy {
	bool running, held, failed;
	int16_t list_id;   /* -1: none, nobody can ask for it */
	uint16_t segments; /* done */
	uint64_t bytes;
};
/* Descriptors of an EXTENDED COPY. */
#define SCSI_CSCDS_MAX    16
#define SCSI_SEGMENTS_MAX 32
/* Bytes of all of them. */
#define SCSI_COPY_LIST_MAX (SCSI_CSCDS_MAX * 32 + SCSI_SEGMENTS_MAX * 28)

struct scsi_target {
	/* set once */
	char initiator[SCSI_INITIATOR_MAX + 1];
	struct scsi_nexus_id nexus;
	struct thread *app;

	/* app thread only */
	LIST_ENTRY(scsi_target) link;
	TAILQ_HEAD(scsi_lun_list, scsi_lun) luns; /* by number */
	uint32_t count;
	struct scsi_copy copy; /* the last one; there is one at a time */
};

struct scsi_lun {
	/* set once */
	struct scsi_target *target;
	struct scsi_unit *unit;
	uint16_t number;
	scsi_lun_event_fn event;
	void *ctx;

	/*
	 * 1 << enum scsi_attention, those pending: any thread; SCSI_ALERT_…: the app thread. Not 0:
	 * commands look closer.
	 */
	_Atomic uint32_t alerts;

	/* the app thread writes, any reads */
	_Atomic uint8_t conflicts; /* with reservations: 1 << enum scsi_access */

	/* app thread only */
	TAILQ_ENTRY(scsi_lun) target_link, unit_link;
	uint32_t users;          /* copies, TMFs, and its target */
	struct completion *left; /* it is being removed, once they have left it; or NULL */
};

/*
 * A logical unit: the block device as SCSI sees it, shared by all LUNs on it.
 *
 * What data paths need to know is changed by the app thread alone and read relaxed. Who needs to be
 * sure that nobody goes by the old value any more visits all channels afterwards: a thread's
 * commands before the visit are in flight then and can be waited for, those after it see the new
 * value. A channel that a visit misses was made later, and so sees it, too.
 */
struct scsi_unit {
	/* set once */
	char name[BDEV_NAME_MAX + 1]; /* the block device's */
	struct bdev_info info;        /* as it was when the unit was made */
	uint8_t block_shift;
	uint8_t compare_blocks; /* of COMPARE AND WRITE; its field in VPD page B0h has 8 bits */
	uint32_t atomic_blocks; /* of WRITE ATOMIC; 0: there is none */
	uint16_t lacks;         /* commands: enum scsi_command_flags */
	bool read_only, can_discard, can_zero;
	struct thread *app;
	struct bdev_desc *desc;

	/* the app thread writes, any reads */
	_Atomic uint64_t blocks;
	_Atomic bool descriptor_sense;
	_Atomic bool write_through;        /* the block device has a cache, and WCE is 0 */
	_Atomic uint64_t exclusive_lba;    /* the range that others may not touch now … */
	_Atomic uint64_t exclusive_blocks; /* … 0: there is none */
	_Atomic uint64_t ordered; /* any thread writes: ORDERED commands that are not over */

	/* app thread only */
	TAILQ_ENTRY(scsi_unit) registry_link;
	TAILQ_HEAD(, scsi_lun) luns;
	TAILQ_HEAD(, scsi_task) line;  /* whose turn in the coroutine comes, as they came */
	LIST_HEAD(, scsi_walk) resets; /* that have come so far as to reset the modes */
	bool write_protected;
	bool has_work;            /* the coroutine */
	struct completion *idle;  /* the coroutine waits for any of these, or for a walk */
	struct completion *ended; /* for whoever removes the last LUN */
	struct scsi_kept *kept;   /* changed by scsi_kept_change() */
};

/* A thread's way to a unit. */
struct scsi_channel {
	struct scsi_unit *unit;
	struct bdev_channel *bdev;
	struct io_channel *io;
	struct thread *thread;
	LIST_HEAD(scsi_task_list, scsi_task) in_flight;
	LIST_HEAD(, scsi_walk) walks; /* that wait for tasks of this channel */
};

/* unit.c; app thread */
/* Makes the unit if the block device of that name or UUID has none, and sets lun->unit. */
int scsi_unit_attach(const char *name, struct scsi_lun *lun, struct errmsg *err);
/* [waits] Visits all channels; the unit's coroutine only. */
void scsi_unit_walk(struct scsi_unit *unit, struct scsi_walk *walk);
void scsi_unit_wait(struct scsi_unit *unit, const bool *flag);
/* [waits] Until there is memory. */
struct completion *scsi_completion_create(void);
void scsi_unit_wake(struct scsi_unit *unit);
/* [waits] None of the LUN's tasks is left. The last one's end is that of the unit. */
void scsi_unit_detach(struct scsi_lun *lun);
/* A message to the app thread: scsi_task_run() in the coroutine, after those that came before. */
void scsi_unit_line_up(void *task);
/* scsi_lun_alert() for each LUN of the unit but `except` (may be NULL). */
void scsi_unit_alert(struct scsi_unit *unit, const struct scsi_lun *except, uint32_t set,
		     uint32_t clear);
/*
 * Counts the tasks that the walk's fields describe; walk->over follows when those that it aborts are
 * over, whatever the coroutine does meanwhile.
 */
void scsi_unit_find_tasks(struct scsi_unit *unit, struct scsi_walk *walk);
/* In the unit's coroutine; walk->over follows once more. */
void scsi_unit_reset_modes(struct scsi_walk *walk);
/* For walk->over: walk->done, which the unit's coroutine waits for. */
void scsi_walk_done(struct scsi_walk *walk);
/* On the channel's thread, which has walks: those go on that need not wait there any longer. */
void scsi_walks_continue(struct scsi_channel *channel);
/* The reservations changed: each LUN's conflicts. */
void scsi_unit_update_conflicts(struct scsi_unit *unit);
/* mode.c. Makes what unit->kept says count; commands that were submitted before are not concerned. */
void scsi_modes_apply(struct scsi_unit *unit);
/* reserve.c. [waits] What a command changes, before it is done; false: it has its status. */
bool scsi_keep(struct scsi_task *task, const struct scsi_kept *next);

/* nexus.c; app thread: one of its users has done with it. */
void scsi_lun_leave(struct scsi_lun *lun);
/*
 * nexus.c; app thread: the first LUN that a designation descriptor names (24 bytes, SPC-4 §7.8.6): of
 * the target itself, or else of others of the same initiator's; or NULL.
 */
struct scsi_lun *scsi_lun_designated(const struct scsi_target *target, const uint8_t *designator);
/* inquiry.c: whether it names the unit. */
bool scsi_unit_is_designated(const struct scsi_unit *unit, const uint8_t *designator);

/* nexus.c; any thread. The first one that is pending, which is not any more: its code; 0: none. */
uint16_t scsi_attention_take(struct scsi_lun *lun);
/* The bit of the one with that code. */
uint32_t scsi_attention_of(uint16_t code);

/* Any thread for unit attentions, app thread for SCSI_ALERT_…. */
static inline void
scsi_lun_alert(struct scsi_lun *lun, uint32_t set, uint32_t clear)
{
	atomic_fetch_or(&lun->alerts, set);
	atomic_fetch_and(&lun->alerts, ~clear);
}

/* ---- tasks; on the thread that has the task ---- */

static inline struct scsi_task *
scsi_task_of_request(struct bdev_request *rq)
{
	return (struct scsi_task *)((char *)rq - offsetof(struct scsi_task, request));
}

/* [waits] In the unit's coroutine, or aborted, which does not wait: its turn. */
void scsi_task_run(struct scsi_task *task);
/* fn(task) on the app thread; from there scsi_task_back() finishes it where it came from. */
void scsi_task_send(struct scsi_task *task, thread_fn fn);
void scsi_task_back(struct scsi_task *task);
/* [waits] The unit's coroutine: until it has ended where it came from. SCSI_CMD_APP: by a flush. */
void scsi_run_to_its_end(struct scsi_task *task);
/* copy.c: done of its tasks, which leave unit attentions to the initiator. */
void scsi_copied(struct scsi_task *task);

/* Its own thread: the end of a task. */
void scsi_finish(struct scsi_task *task);
/* For its last request: finishes it as that ended. */
void scsi_io_done(struct bdev_request *rq, int status);

/* All these return true, as handlers of tasks that are over do: */
/* CHECK CONDITION with that sense. */
bool scsi_check_condition(struct scsi_task *task, const struct scsi_sense *sense);
bool scsi_refuse(struct scsi_task *task, uint8_t key, uint16_t code);
/* ILLEGAL REQUEST */
bool scsi_illegal(struct scsi_task *task, uint16_t code);
/* ILLEGAL REQUEST, INVALID FIELD IN CDB, with the field pointer; bit -1: the byte. */
bool scsi_refuse_cdb(struct scsi_task *task, uint16_t byte, int bit);
/* The same for INVALID FIELD IN PARAMETER LIST. */
bool scsi_refuse_list(struct scsi_task *task, uint16_t byte, int bit);
/* The buffers are shorter than the CDB asks for. */
bool scsi_overrun(struct scsi_task *task);
/* Answers with data, cut to allocation bytes. */
bool scsi_data_in(struct scsi_task *task, const void *data, size_t length, uint64_t allocation);

/*
 * Copies the first length bytes of data-out to task->buffer, behind room for others. False: the
 * task has its outcome.
 */
bool scsi_take_data_out(struct scsi_task *task, uint32_t length, uint32_t room);
/* Of a write, by the CDB's FUA and by WCE: enum bdev_request_flags. */
uint8_t scsi_write_flags(const struct scsi_task *task);

/* The task's request; offset and length in bytes. */
static inline void
scsi_submit_io(struct scsi_task *task, enum bdev_io_type type, uint64_t offset, uint64_t length,
	       uint8_t flags, struct iovec *iov, uint32_t iovcnt, bdev_done_fn done)
{
	struct bdev_request *rq = (struct bdev_request *)task->request;

	rq->type = (uint8_t)type;
	rq->flags = flags;
	rq->iov = iov;
	rq->iovcnt = iovcnt;
	rq->offset = offset;
	rq->length = length;
	rq->done = done;
	bdev_submit(task->channel->bdev, rq);
}

static inline bool
scsi_unit_has(const struct scsi_unit *unit, uint64_t lba, uint64_t blocks)
{
	uint64_t all = load(unit->blocks);

	return lba <= all && blocks <= all - lba;
}

/* ---- handlers ---- */

scsi_handler scsi_run_inquiry, scsi_run_report_luns, scsi_run_request_sense, scsi_run_mode_sense,
	scsi_run_mode_select, scsi_run_read_capacity_10, scsi_run_read_capacity_16,
	scsi_run_get_lba_status, scsi_run_report_opcodes, scsi_run_report_tmfs,
	scsi_run_read_defect_data, scsi_run_start_stop, scsi_run_read, scsi_run_write,
	scsi_run_write_verify, scsi_run_verify, scsi_run_synchronize_cache, scsi_run_unmap,
	scsi_run_write_same, scsi_run_write_atomic, scsi_run_extended_copy, scsi_run_copy_status,
	scsi_run_copy_parameters, scsi_run_compare_and_write, scsi_run_orwrite, scsi_run_reserve_in,
	scsi_run_reserve_out, scsi_run_nothing;

#endif
