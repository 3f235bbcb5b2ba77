/* SPDX-License-Identifier: BSD-3-Clause */
#include "table.h"

const char *const metric_type_names[] = {
	[METRIC_COUNTER] = "counter",
	[METRIC_GAUGE] = "gauge",
	[METRIC_HISTOGRAM] = "histogram",
};

/* ---- whose they are ---- */

static const struct metric_group build = {"build", {{"version", "version"}}};
static const struct metric_group process = {"process", {{NULL, NULL}}};
static const struct metric_group reactors = {"reactors", {{"core", "core"}}};
/* Names need not be unique. */
static const struct metric_group threads = {"threads", {{"thread", "name"}, {"id", "id"}}};
static const struct metric_group controllers = {"controllers", {{"controller", "ctrlr"}}};
static const struct metric_group queues = {"queues", {{"controller", "ctrlr"}, {"queue", "queue"}}};
static const struct metric_group bdevs = {"bdevs", {{"bdev", "name"}}};
static const struct metric_group operations = {"operations",
					       {{"bdev", "name"}, {"operation", "operation"}}};
static const struct metric_group nvme = {"nvme", {{"controller", "name"}}};

/* ---- what they are ---- */

const struct metric metrics_table[] = {
	{"vhostd_build_info", METRIC_GAUGE, &build, "info", "Always 1; the label is the version."},
	{"process_start_time_seconds", METRIC_GAUGE, &process, "start_time",
	 "When the daemon was started, in seconds since 1970; changes when it is restarted."},

	{"vhostd_reactor_busy_seconds_total", METRIC_COUNTER, &reactors, "busy",
	 "Time in polls that found work."},
	{"vhostd_reactor_idle_seconds_total", METRIC_COUNTER, &reactors, "idle",
	 "Time in polls that found no work, and asleep."},
	{"vhostd_reactor_sleeps_total", METRIC_COUNTER, &reactors, "sleeps",
	 "Times that the reactor slept."},
	{"vhostd_reactor_events_total", METRIC_COUNTER, &reactors, "events",
	 "Events that the reactor ran."},
	{"vhostd_reactor_threads", METRIC_GAUGE, &reactors, "threads",
	 "Lightweight threads that are on the reactor now."},

	{"vhostd_thread_busy_seconds_total", METRIC_COUNTER, &threads, "busy",
	 "Time in which the lightweight thread had work."},
	{"vhostd_thread_idle_seconds_total", METRIC_COUNTER, &threads, "idle",
	 "Time in which the lightweight thread was polled and had no work."},

	{"vhostd_controller_connected", METRIC_GAUGE, &controllers, "connected",
	 "1 while a front-end is connected, else 0."},
	{"vhostd_controller_connections_total", METRIC_COUNTER, &controllers, "connections",
	 "Front-ends that have connected; all but the first are reconnects."},
	{"vhostd_controller_running_queues", METRIC_GAUGE, &controllers, "running_queues",
	 "Queues that the guest uses now."},
	{"vhostd_controller_broken_queues", METRIC_GAUGE, &controllers, "broken_queues",
	 "Queues that are stopped because the guest broke a rule."},

	{"vhostd_queue_requests_total", METRIC_COUNTER, &queues, "requests",
	 "Requests given back to the guest."},
	{"vhostd_queue_read_bytes_total", METRIC_COUNTER, &queues, "bytes_read",
	 "Bytes written to the guest's memory for its requests, status bytes included."},
	{"vhostd_queue_written_bytes_total", METRIC_COUNTER, &queues, "bytes_written",
	 "Bytes read from the guest's memory for its requests, headers included."},
	{"vhostd_queue_errors_total", METRIC_COUNTER, &queues, "errors",
	 "Requests answered with an error."},
	{"vhostd_queue_in_flight", METRIC_GAUGE, &queues, "inflight",
	 "Requests that are being worked on."},
	{"vhostd_queue_sleeps_total", METRIC_COUNTER, &queues, "sleeps",
	 "Times that the queue began to wait for a kick."},
	{"vhostd_queue_kicks_total", METRIC_COUNTER, &queues, "kicks",
	 "Kicks that ended such a wait; none are asked for while the queue is polled."},
	{"vhostd_queue_calls_total", METRIC_COUNTER, &queues, "calls",
	 "Calls (interrupts) sent to the guest."},
	{"vhostd_queue_calls_suppressed_total", METRIC_COUNTER, &queues, "calls_suppressed",
	 "Completions of which the guest did not want to be told."},
	{"vhostd_queue_calls_coalesced_total", METRIC_COUNTER, &queues, "calls_coalesced",
	 "Calls that went into a later one."},
	{"vhostd_queue_breaks_total", METRIC_COUNTER, &queues, "breaks",
	 "Times that the queue was stopped because the guest broke a rule."},

	{"vhostd_bdev_size_bytes", METRIC_GAUGE, &bdevs, "size", "Size of the block device."},
	{"vhostd_bdev_open", METRIC_GAUGE, &bdevs, "open", "1 while somebody uses it, else 0."},
	{"vhostd_bdev_limit_operations_per_second", METRIC_GAUGE, &bdevs, "limit_operations",
	 "Rate limit of all operations together; not there: no limit."},
	{"vhostd_bdev_limit_bytes_per_second", METRIC_GAUGE, &bdevs, "limit_bytes",
	 "Rate limit of bytes read and written together; not there: no limit."},
	{"vhostd_bdev_limit_read_bytes_per_second", METRIC_GAUGE, &bdevs, "limit_read_bytes",
	 "Rate limit of bytes read; not there: no limit."},
	{"vhostd_bdev_limit_written_bytes_per_second", METRIC_GAUGE, &bdevs, "limit_written_bytes",
	 "Rate limit of bytes written; not there: no limit."},
	{"vhostd_bdev_latency_seconds", METRIC_HISTOGRAM, &bdevs, "latency",
	 "Latency of successful operations; there while the block device's histogram is on."},

	{"vhostd_bdev_operations_total", METRIC_COUNTER, &operations, "operations",
	 "Operations that succeeded."},
	{"vhostd_bdev_operation_bytes_total", METRIC_COUNTER, &operations, "bytes",
	 "Bytes of operations that succeeded."},
	{"vhostd_bdev_operation_seconds_total", METRIC_COUNTER, &operations, "seconds",
	 "Sum of the latencies of operations that succeeded."},
	{"vhostd_bdev_operation_errors_total", METRIC_COUNTER, &operations, "errors",
	 "Operations that failed."},

	{"vhostd_nvme_up", METRIC_GAUGE, &nvme, "up",
	 "1 while the NVMe controller takes requests, else 0."},
	{"vhostd_nvme_resets_total", METRIC_COUNTER, &nvme, "resets",
	 "Resets of the NVMe controller since it was attached."},
	{"vhostd_nvme_timeouts_total", METRIC_COUNTER, &nvme, "timeouts",
	 "Commands that took too long."},
	{"vhostd_nvme_aborts_total", METRIC_COUNTER, &nvme, "aborts", "Commands aborted."},
	{"vhostd_nvme_queue_pairs", METRIC_GAUGE, &nvme, "io_queues_used",
	 "I/O queue pairs in use."},
};

const size_t metrics_count = sizeof(metrics_table) / sizeof(metrics_table[0]);
