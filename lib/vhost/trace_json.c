/* SPDX-License-Identifier: BSD-3-Clause */
/* What the traces of a controller's threads have, as JSON. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "controller.h"
#include "env.h"
#include "trace.h"

/* What one thread has, copied there. */
struct copy {
	char thread[64]; /* its name */
	struct vhost_trace trace;
};

struct row {
	struct copy *copy;
	uint64_t number;
};

/* Not on a stack: the coroutine has it while it waits for threads, and then a worker. */
struct job {
	char name[VHOST_NAME_MAX + 1];
	uint32_t threshold_us;
	uint32_t count; /* of the newest that are asked for */
	uint32_t copies;
	struct copy *copy[VHOST_MAX_QUEUES];
	json_t *result;
};

/* ---- collecting ---- */

/* Those behind one that is not whole yet come with the next answer: numbers have no gaps. */
static int
copy_on_thread(struct vhost_thread *thread, void *arg)
{
	struct copy *copy = malloc(sizeof(*copy));
	struct job *job = arg;

	if (copy == NULL)
		return -ENOMEM;
	snprintf(copy->thread, sizeof(copy->thread), "%s", thread_name(thread->thread));
	copy->trace = *thread->trace;
	job->copy[job->copies++] = copy;
	return 0;
}

/* ---- on a worker: there may be many thousand ---- */

static const struct vhost_trace_record *
record_of(const struct row *row)
{
	return vhost_trace_at(&row->copy->trace, row->number);
}

/* By the clock that is never set. */
static int
compare_rows(const void *a, const void *b)
{
	const struct row *first = a, *second = b;
	uint64_t x = record_of(first)->done_ticks, y = record_of(second)->done_ticks;

	if (x == y) {
		x = first->copy == second->copy ? first->number : (uintptr_t)first->copy;
		y = first->copy == second->copy ? second->number : (uintptr_t)second->copy;
	}
	return (x > y) - (x < y);
}

static json_int_t
us_of(uint64_t ticks)
{
	return (json_int_t)env_ticks_to_us(ticks);
}

static json_t *
time_json(uint64_t ns)
{
	time_t seconds = (time_t)(ns / 1000000000);
	char text[sizeof("-2147483648-01-01T00:00:00.000000Z")];
	struct tm tm;
	size_t length;

	gmtime_r(&seconds, &tm);
	length = strftime(text, sizeof(text), "%FT%T", &tm);
	snprintf(text + length, sizeof(text) - length, ".%06uZ",
		 (unsigned int)(ns % 1000000000 / 1000));
	return json_string(text);
}

static void
add_scsi(json_t *object, const struct vhost_trace_record *record)
{
	json_object_set_new(object, "opcode", json_integer(record->opcode));
	json_object_set_new(object, "target", json_integer(record->target));
	json_object_set_new(object, "lun",
			    record->lun != UINT16_MAX ? json_integer(record->lun) : json_null());
}

static json_t *
row_json(const struct row *row)
{
	const struct vhost_trace_record *record = record_of(row);
	uint64_t total = 0;
	char tag[sizeof("0xffffffffffffffff")];
	json_t *object;

	for (int i = 0; i < VHOST_STAGES; i++)
		total += record->stages[i];
	snprintf(tag, sizeof(tag), "%#llx", (unsigned long long)record->tag);
	object = json_pack("{s:o, s:s, s:I, s:I, s:s?, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s?}",
			   "time", time_json(record->done_ns), "thread", row->copy->thread,
			   "number", (json_int_t)row->number, "queue", (json_int_t)record->queue,
			   "type", record->type, "tag", tag, "lba", (json_int_t)record->lba,
			   "blocks", (json_int_t)record->blocks, "queue_us",
			   us_of(record->stages[VHOST_STAGE_QUEUE]), "device_us",
			   us_of(record->stages[VHOST_STAGE_DEVICE]), "completion_us",
			   us_of(record->stages[VHOST_STAGE_COMPLETION]), "total_us", us_of(total),
			   "status", record->status);
	if (record->is_scsi)
		add_scsi(object, record);
	return object;
}

static uint32_t
fill_rows(const struct job *job, struct row *rows)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < job->copies; i++) {
		const struct vhost_trace *trace = &job->copy[i]->trace;

		for (uint64_t n = vhost_trace_first(trace); n < trace->settled; n++)
			rows[count++] = (struct row){job->copy[i], n};
	}
	return count;
}

static int
format(void *arg)
{
	struct job *job = arg;
	struct row *rows = calloc((size_t)job->copies * VHOST_TRACE_RECORDS, sizeof(*rows));
	json_t *requests = json_array();
	uint64_t recorded = 0;
	uint32_t count, i = 0;

	if (rows == NULL) {
		json_decref(requests);
		return -ENOMEM;
	}
	count = fill_rows(job, rows);
	qsort(rows, count, sizeof(*rows), compare_rows);
	if (count > job->count)
		i = count - job->count;
	for (; i < count; i++)
		json_array_append_new(requests, row_json(&rows[i]));
	free(rows);
	for (i = 0; i < job->copies; i++)
		recorded += job->copy[i]->trace.recorded;
	job->result = json_pack("{s:s, s:I, s:I, s:o}", "ctrlr", job->name, "threshold_us",
				(json_int_t)job->threshold_us, "recorded", (json_int_t)recorded,
				"requests", requests);
	return job->result != NULL ? 0 : -ENOMEM;
}

json_t *
vhost_slow_requests_json(const char *name, uint32_t count, int *rc, struct errmsg *err)
{
	struct vhost_controller *controller = vhost_controller_find(name, rc, err);
	struct job *job;
	json_t *result;

	if (controller == NULL)
		return NULL;
	job = calloc(1, sizeof(*job));
	*rc = -ENOMEM;
	if (job == NULL)
		return NULL;
	snprintf(job->name, sizeof(job->name), "%s", name);
	job->threshold_us = atomic_load(&controller->slow_us);
	job->count = count;
	*rc = vhost_threads_call(controller, copy_on_thread, job);
	/* The controller may be gone. */
	if (*rc == 0)
		*rc = coroutine_blocking(format, job);
	result = job->result;
	for (uint32_t i = 0; i < job->copies; i++)
		free(job->copy[i]);
	free(job);
	return result;
}
