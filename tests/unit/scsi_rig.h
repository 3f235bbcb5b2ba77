/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * scsi_rig: a SCSI disk on the fake block device, seen by two initiators, "a" on the thread
 * rig_io[0] and "b" on rig_io[1]. CDBs are made, and data and sense are decoded, by libiscsi, so
 * that both sides cannot misread the standard in the same way.
 */
#ifndef VHOSTD_SCSI_RIG_H
#define VHOSTD_SCSI_RIG_H

#include "bdev_fake.h"
#include "scsi.h"

/* Its names are ours, too. */
#define scsi_task   iscsi_task
#define scsi_status iscsi_status
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#undef scsi_task
#undef scsi_status

enum { A, B, INITIATORS };

static struct rig_nexus {
	struct thread *thread;
	struct scsi_target *target;
	struct scsi_lun *lun;
	struct scsi_channel *channel;
	unsigned int gone, resized; /* events */
} nexus[INITIATORS];

/* One command with its buffers. */
struct command {
	bool finished;
	unsigned int finishes;
	struct iovec out_iov, in_iov;
	uint8_t *in;
	size_t in_size;
	struct scsi_sense sense;
	struct scsi_task *task;
};

static inline void
on_lun_event(void *ctx, enum scsi_lun_event event)
{
	struct rig_nexus *at = ctx;

	if (event == SCSI_LUN_GONE)
		at->gone++;
	else
		at->resized++;
}

/* ---- commands ---- */

static inline void
command_done(struct scsi_task *task)
{
	struct command *command = *(struct command **)((uint8_t *)task - 64);

	command->finished = true;
	command->finishes++;
}

static inline struct command *
command_new(void)
{
	size_t size = (scsi_task_size() + 127) & ~(size_t)63;
	struct command *command = calloc(1, sizeof(*command));
	uint8_t *memory = aligned_alloc(64, size);

	assert_non_null(command);
	assert_non_null(memory);
	memset(memory, 0xa5, size);
	*(struct command **)memory = command;
	command->task = (struct scsi_task *)(memory + 64);
	return command;
}

static inline void
command_free(struct command *command)
{
	assert_true(command->finished);
	assert_int_equal(command->finishes, 1);
	free((uint8_t *)command->task - 64);
	free(command->in);
	free(command);
}

/* Submits; does not wait. data is data-out; in_size bytes of data-in are there. */
static inline struct command *
command_start(int who, const uint8_t *cdb, size_t cdb_length, const void *data, size_t out_size,
	      size_t in_size)
{
	struct command *command = command_new();
	struct scsi_task *task = command->task;

	command->in = calloc(1, in_size + 1);
	assert_non_null(command->in);
	command->in[in_size] = 0x77;
	command->in_size = in_size;
	command->out_iov = (struct iovec){(void *)data, out_size};
	command->in_iov = (struct iovec){command->in, in_size};
	task->target = nexus[who].target;
	task->lun = nexus[who].lun;
	task->channel = nexus[who].channel;
	task->tag = 0;
	task->out = &command->out_iov;
	task->in = &command->in_iov;
	task->out_count = out_size != 0;
	task->in_count = in_size != 0;
	task->out_bytes = out_size;
	task->in_bytes = in_size;
	task->attribute = SCSI_SIMPLE;
	memset(task->cdb, 0, sizeof(task->cdb));
	memcpy(task->cdb, cdb, cdb_length);
	task->cdb_length = SCSI_CDB_MAX;
	task->done = command_done;
	return command;
}

static inline void
command_submit(int who, struct command *command)
{
	thread_set_current(nexus[who].thread);
	scsi_submit(command->task);
	if (nexus[who].channel != NULL)
		scsi_channel_flush(nexus[who].channel);
	thread_set_current(NULL);
}

static inline void
command_wait(struct command *command)
{
	rig_wait(&command->finished);
	assert_int_equal(command->finishes, 1);
	if (command->task->sense_length != 0)
		scsi_parse_sense_data(&command->sense, command->task->sense);
	/* Nothing is written behind what was produced. */
	for (size_t i = command->task->transferred_in; i < command->in_size; i++) {
		if (command->task->status == SCSI_GOOD)
			assert_int_equal(command->in[i], 0);
	}
	assert_int_equal(command->in[command->in_size], 0x77);
}

static inline struct command *
command_run(int who, const uint8_t *cdb, size_t cdb_length, const void *data, size_t out_size,
	    size_t in_size)
{
	struct command *command = command_start(who, cdb, cdb_length, data, out_size, in_size);

	command_submit(who, command);
	command_wait(command);
	return command;
}

/* Runs what libiscsi made, and frees that. */
static inline struct command *
run(int who, struct iscsi_task *made, const void *data, size_t out_size, size_t in_size)
{
	struct command *command;

	assert_non_null(made);
	command = command_run(who, made->cdb, (size_t)made->cdb_size, data, out_size, in_size);
	scsi_free_scsi_task(made);
	return command;
}

static inline struct command *
begin(int who, struct iscsi_task *made, const void *data, size_t out_size, size_t in_size)
{
	struct command *command;

	assert_non_null(made);
	command = command_start(who, made->cdb, (size_t)made->cdb_size, data, out_size, in_size);
	scsi_free_scsi_task(made);
	return command;
}

static inline void
expect_good(struct command *command)
{
	assert_int_equal(command->task->outcome, SCSI_COMPLETE);
	assert_int_equal(command->task->status, SCSI_GOOD);
	command_free(command);
}

static inline void
expect_outcome(struct command *command, enum scsi_outcome outcome)
{
	assert_true(command->finished);
	assert_int_equal(command->task->outcome, outcome);
	command_free(command);
}

static inline void
expect_status(struct command *command, int status)
{
	assert_int_equal(command->task->outcome, SCSI_COMPLETE);
	assert_int_equal(command->task->status, status);
	command_free(command);
}

static inline void
expect_overrun(struct command *command)
{
	assert_int_equal(command->task->outcome, SCSI_OVERRUN);
	command_free(command);
}

static inline void
check_sense(const struct command *command, int key, int ascq)
{
	assert_int_equal(command->task->outcome, SCSI_COMPLETE);
	assert_int_equal(command->task->status, SCSI_CHECK_CONDITION);
	assert_int_equal(command->sense.key, key);
	assert_int_equal(command->sense.ascq, ascq);
}

static inline void
expect_sense(struct command *command, int key, int ascq)
{
	check_sense(command, key, ascq);
	command_free(command);
}

/* With a field pointer; bit -1: the whole byte. */
static inline void
expect_field(struct command *command, bool in_cdb, int byte, int bit)
{
	check_sense(command, SCSI_SENSE_ILLEGAL_REQUEST,
		    in_cdb ? SCSI_SENSE_ASCQ_INVALID_FIELD_IN_CDB
			   : SCSI_SENSE_ASCQ_INVALID_FIELD_IN_PARAMETER_LIST);
	assert_int_equal(command->sense.sense_specific, 1);
	assert_int_equal(command->sense.ill_param_in_cdb, in_cdb);
	assert_int_equal(command->sense.field_pointer, byte);
	assert_int_equal(command->sense.bit_pointer_valid, bit >= 0);
	if (bit >= 0)
		assert_int_equal(command->sense.bit_pointer, bit);
	command_free(command);
}

/* Runs what libiscsi made, which has to be good, and decodes the answer: free *made. */
static inline void *
ask(int who, struct iscsi_task *made, size_t in_size)
{
	struct command *command =
		command_run(who, made->cdb, (size_t)made->cdb_size, NULL, 0, in_size);
	void *decoded;

	assert_int_equal(command->task->outcome, SCSI_COMPLETE);
	assert_int_equal(command->task->status, SCSI_GOOD);
	made->datain.size = (int)command->task->transferred_in;
	made->datain.data = command->in;
	command->in = calloc(1, 1);
	command_free(command);
	decoded = scsi_datain_unmarshall(made);
	assert_non_null(decoded);
	return decoded;
}

/* Takes what is pending. */
static inline void
clear_attentions(int who)
{
	bool pending = true;

	while (pending) {
		struct command *command = run(who, scsi_cdb_testunitready(), NULL, 0, 0);

		pending = command->task->status == SCSI_CHECK_CONDITION;
		command_free(command);
	}
}

static inline void
expect_attention(int who, int ascq)
{
	expect_sense(run(who, scsi_cdb_testunitready(), NULL, 0, 0), SCSI_SENSE_UNIT_ATTENTION,
		     ascq);
}

/* ---- mode pages ---- */

/* One page, current values; free *made. */
static inline struct scsi_mode_page *
get_page(int who, int code, struct iscsi_task **made)
{
	struct scsi_mode_sense *sense;
	struct scsi_mode_page *page;

	*made = scsi_cdb_modesense6(0, SCSI_MODESENSE_PC_CURRENT,
				    (enum scsi_modesense_page_code)code, 0, 255);
	sense = ask(who, *made, 255);
	page = scsi_modesense_get_page(sense, (enum scsi_modesense_page_code)code, 0);
	assert_non_null(page);
	return page;
}

/* Does not wait; out_iov's memory is the caller's to free. */
static inline struct command *
select_page_start(int who, struct scsi_mode_page *page, bool six)
{
	struct iscsi_task *made =
		six ? scsi_cdb_modeselect6(1, 0, 0) : scsi_cdb_modeselect10(1, 0, 0);
	struct scsi_data *data = scsi_modesense_dataout_marshall(made, page, six);
	struct command *command;

	assert_non_null(data);
	made->cdb[six ? 4 : 8] = (uint8_t)data->size;
	command =
		command_start(who, made->cdb, (size_t)made->cdb_size, NULL, (size_t)data->size, 0);
	command->out_iov.iov_base = malloc((size_t)data->size);
	memcpy(command->out_iov.iov_base, data->data, (size_t)data->size);
	scsi_free_scsi_task(made);
	command_submit(who, command);
	return command;
}

static inline struct command *
select_page(int who, struct scsi_mode_page *page, bool six)
{
	struct command *command = select_page_start(who, page, six);

	command_wait(command);
	free(command->out_iov.iov_base);
	return command;
}

/* ---- reservations ---- */

static inline struct command *
start_reserve(int who, int action, int type, uint64_t key, uint64_t new_key, bool aptpl)
{
	struct scsi_persistent_reserve_out_basic basic = {
		.reservation_key = key, .service_action_reservation_key = new_key, .aptpl = aptpl};
	struct iscsi_task *made = scsi_cdb_persistent_reserve_out(
		(enum scsi_persistent_out_sa)action, SCSI_PERSISTENT_RESERVE_SCOPE_LU,
		(enum scsi_persistent_out_type)type, &basic);
	struct scsi_iovec *list;
	struct command *command;

	assert_non_null(made);
	list = made->iovector_out.iov;
	command = command_start(who, made->cdb, (size_t)made->cdb_size, NULL, list->iov_len, 0);
	command->out_iov.iov_base = malloc(list->iov_len);
	memcpy(command->out_iov.iov_base, list->iov_base, list->iov_len);
	scsi_free_scsi_task(made);
	command_submit(who, command);
	return command;
}

static inline int
end_reserve(struct command *command)
{
	int status;

	command_wait(command);
	free(command->out_iov.iov_base);
	status = command->task->outcome == SCSI_COMPLETE ? command->task->status : -1;
	command_free(command);
	return status;
}

static inline int
reserve(int who, int action, int type, uint64_t key, uint64_t new_key)
{
	return end_reserve(start_reserve(who, action, type, key, new_key, false));
}

static inline struct iscsi_task *
write_one_block(void)
{
	return scsi_cdb_write16(0, 512, 512, 0, 0, 0, 0, 0);
}

static inline struct iscsi_task *
read_one_block(void)
{
	return scsi_cdb_read10(0, 512, 512, 0, 0, 0, 0, 0);
}

/* ---- task management ---- */

struct rig_tmf {
	struct scsi_tmf tmf;
	bool finished;
};

static inline void
tmf_done(struct scsi_tmf *tmf)
{
	((struct rig_tmf *)tmf)->finished = true;
}

static inline void
tmf_start(int who, struct rig_tmf *tmf, enum scsi_tmf_function function, uint64_t tag)
{
	*tmf = (struct rig_tmf){.tmf = {.function = function,
					.target = nexus[who].target,
					.lun = nexus[who].lun,
					.tag = tag,
					.done = tmf_done,
					.response = 99}};
	thread_set_current(nexus[who].thread);
	scsi_tmf_submit(&tmf->tmf);
	thread_set_current(NULL);
	assert_false(tmf->finished);
}

static inline int
tmf_run(int who, enum scsi_tmf_function function, uint64_t tag)
{
	struct rig_tmf tmf;

	tmf_start(who, &tmf, function, tag);
	rig_wait(&tmf.finished);
	return tmf.tmf.response;
}

/* ---- beginning and end ---- */

static inline struct scsi_lun *
lun_add_as(int who, uint16_t number, const char *bdev, bool quiet, int *rc)
{
	struct scsi_lun_opts opts = {.number = number,
				     .bdev = bdev,
				     .event = on_lun_event,
				     .ctx = &nexus[who],
				     .quiet = quiet};
	struct scsi_lun *lun = NULL;

	thread_set_current(rig_app);
	*rc = scsi_lun_add(nexus[who].target, &opts, &lun, &rig_err);
	thread_set_current(NULL);
	return lun;
}

static inline struct scsi_lun *
lun_add(int who, uint16_t number, const char *bdev, int *rc)
{
	return lun_add_as(who, number, bdev, false, rc);
}

static inline void
lun_remove_run(void *arg)
{
	scsi_lun_remove(arg);
}

static inline void
nexus_make(int who, const char *name, const char *bdev, bool quiet)
{
	struct rig_nexus *at = &nexus[who];
	int rc;

	thread_set_current(rig_app);
	at->thread = rig_io[who];
	at->target = scsi_target_create(name, 1);
	thread_set_current(NULL);
	assert_non_null(at->target);
	at->lun = lun_add_as(who, 0, bdev, quiet, &rc);
	assert_int_equal(rc, 0);
	thread_set_current(at->thread);
	at->channel = scsi_channel_get(at->lun);
	thread_set_current(NULL);
	assert_non_null(at->channel);
}

static inline void
nexus_start(int who, const char *name, const char *bdev)
{
	nexus_make(who, name, bdev, false);
}

/* The initiator was there before, and goes on. */
static inline void
nexus_go_on(int who, const char *name, const char *bdev)
{
	nexus_make(who, name, bdev, true);
}

static inline void
nexus_stop(int who)
{
	struct rig_nexus *at = &nexus[who];

	thread_set_current(at->thread);
	scsi_channel_put(at->channel);
	thread_set_current(NULL);
	rig_run(lun_remove_run, at->lun);
	scsi_target_destroy(at->target);
	*at = (struct rig_nexus){0};
}

static inline void
disk_start(const struct bdev_info *info)
{
	assert_int_equal(fake_register(info), 0);
	nexus_start(A, "a", info->name);
	nexus_start(B, "b", info->name);
	clear_attentions(A);
	clear_attentions(B);
	fake.logged = 0;
}

static inline int
disk_setup(void **state)
{
	struct bdev_info info;

	fake_setup(state);
	info = fake_info("disk");
	info.physical_block_size = 4096;
	info.discard_granularity = 4096;
	info.atomic_write_bytes = 1u << 20;
	disk_start(&info);
	return 0;
}

static inline int
disk_teardown(void **state)
{
	nexus_stop(A);
	nexus_stop(B);
	assert_int_equal(rig_delete("disk", "fake"), 0);
	assert_int_equal(fake.channels, 0);
	thread_set_current(rig_app);
	scsi_kept_forget(NULL);
	thread_set_current(NULL);
	return fake_teardown(state);
}

#define disk_test(fn) cmocka_unit_test_setup_teardown(fn, disk_setup, disk_teardown)

#endif
