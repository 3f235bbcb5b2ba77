/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * params: what connects the schemas (schema_*.c) with the handlers (rpc_*.c): the index of each
 * method in its table, and the struct that its parameters are decoded into. Private to rpc/.
 */
#ifndef VHOSTD_RPC_PARAMS_H
#define VHOSTD_RPC_PARAMS_H

#include "jsonrpc.h"

#define RPC_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/*
 * What rpc_schema.columns says to vhostctl: [MEMBER:]COLUMN,COLUMN,… The rows are the answer, or
 * that member of it. A COLUMN is [HEADING=]PATH, and a PATH is members' names joined by dots, of
 * which arrays on the way are walked.
 */

/* ---- general ---- */

enum rpc_app_index {
	RPC_GET_METHODS,
	RPC_SPDK_GET_VERSION,
	RPC_SPDK_KILL_INSTANCE,
	RPC_FRAMEWORK_START_INIT,
	RPC_FRAMEWORK_WAIT_INIT,
	RPC_FRAMEWORK_GET_SUBSYSTEMS,
	RPC_FRAMEWORK_GET_CONFIG,
	RPC_APP_METHODS,
};
extern const struct rpc_schema rpc_app_schemas[RPC_APP_METHODS + 1];
extern const struct rpc_method rpc_app_methods[RPC_APP_METHODS + 1];

struct rpc_get_methods {
	bool current;
	bool include_aliases;
};

struct rpc_kill_instance {
	const char *sig_name;
};

/* For the many methods that take a name and nothing else. */
struct rpc_name {
	const char *name;
};

/* ---- the daemon and its machine ---- */

enum rpc_system_index {
	RPC_FRAMEWORK_GET_STATE,
	RPC_FRAMEWORK_GET_PCI_DEVICES,
	RPC_NOTIFY_GET_TYPES,
	RPC_NOTIFY_GET_NOTIFICATIONS,
	RPC_SYSTEM_METHODS,
};
extern const struct rpc_schema rpc_system_schemas[RPC_SYSTEM_METHODS + 1];
extern const struct rpc_method rpc_system_methods[RPC_SYSTEM_METHODS + 1];

struct rpc_notify_get_notifications {
	int64_t id;
	int64_t max;
};

/* ---- metrics ---- */

enum rpc_metrics_index {
	RPC_METRICS_GET,
	RPC_METRICS_METHODS,
};
extern const struct rpc_schema rpc_metrics_schemas[RPC_METRICS_METHODS + 1];
extern const struct rpc_method rpc_metrics_methods[RPC_METRICS_METHODS + 1];

struct rpc_metrics_get {
	const char *format;
};

/* ---- threads ---- */

enum rpc_thread_index {
	RPC_FRAMEWORK_GET_REACTORS,
	RPC_THREAD_GET_STATS,
	RPC_THREAD_GET_POLLERS,
	RPC_THREAD_GET_IO_CHANNELS,
	RPC_THREAD_SET_CPUMASK,
	RPC_FRAMEWORK_SET_MODE,
	RPC_FRAMEWORK_GET_SCHEDULER,
	RPC_FRAMEWORK_SET_SCHEDULER,
	RPC_THREAD_METHODS,
};
extern const struct rpc_schema rpc_thread_schemas[RPC_THREAD_METHODS + 1];
extern const struct rpc_method rpc_thread_methods[RPC_THREAD_METHODS + 1];

struct rpc_thread_set_cpumask {
	int64_t id;
	struct cpumask cpumask;
};

struct rpc_framework_set_mode {
	int64_t core;
	const char *mode;
};

/* ---- log ---- */

enum rpc_log_index {
	RPC_LOG_SET_LEVEL,
	RPC_LOG_GET_LEVEL,
	RPC_LOG_SET_PRINT_LEVEL,
	RPC_LOG_GET_PRINT_LEVEL,
	RPC_LOG_SET_FLAG,
	RPC_LOG_CLEAR_FLAG,
	RPC_LOG_GET_FLAGS,
	RPC_LOG_METHODS,
};
extern const struct rpc_schema rpc_log_schemas[RPC_LOG_METHODS + 1];
extern const struct rpc_method rpc_log_methods[RPC_LOG_METHODS + 1];

struct rpc_log_level {
	const char *level;
};

struct rpc_log_flag {
	const char *flag;
};

/* ---- block devices ---- */

enum rpc_bdev_index {
	RPC_BDEV_GET_BDEVS,
	RPC_BDEV_GET_IOSTAT,
	RPC_BDEV_RESET_IOSTAT,
	RPC_BDEV_ENABLE_HISTOGRAM,
	RPC_BDEV_GET_HISTOGRAM,
	RPC_BDEV_SET_QOS_LIMIT,
	RPC_BDEV_SET_OPTIONS,
	RPC_BDEV_WAIT_FOR_EXAMINE,
	RPC_BDEV_EXAMINE,
	RPC_BDEV_MALLOC_CREATE,
	RPC_BDEV_MALLOC_DELETE,
	RPC_BDEV_NULL_CREATE,
	RPC_BDEV_NULL_RESIZE,
	RPC_BDEV_NULL_DELETE,
	RPC_BDEV_AIO_CREATE,
	RPC_BDEV_AIO_RESCAN,
	RPC_BDEV_AIO_DELETE,
	RPC_BDEV_URING_CREATE,
	RPC_BDEV_URING_RESCAN,
	RPC_BDEV_URING_DELETE,
	RPC_BDEV_ERROR_CREATE,
	RPC_BDEV_ERROR_INJECT_ERROR,
	RPC_BDEV_ERROR_DELETE,
	RPC_BDEV_DELAY_CREATE,
	RPC_BDEV_DELAY_UPDATE_LATENCY,
	RPC_BDEV_DELAY_DELETE,
	RPC_BDEV_METHODS,
};
extern const struct rpc_schema rpc_bdev_schemas[RPC_BDEV_METHODS + 1];
extern const struct rpc_method rpc_bdev_methods[RPC_BDEV_METHODS + 1];

struct rpc_bdev_get_bdevs {
	const char *name;
	int64_t timeout_ms;
};

struct rpc_bdev_get_iostat {
	const char *name;
	struct rpc_strings names;
	bool per_channel;
	const char *reset_mode;
};

struct rpc_bdev_reset_iostat {
	const char *name;
	const char *mode;
};

struct rpc_bdev_enable_histogram {
	const char *name;
	bool enable;
};

struct rpc_bdev_get_histogram {
	const char *name;
	bool per_channel;
};

/* -1: as it is; 0: none. */
struct rpc_bdev_set_qos_limit {
	const char *name;
	int64_t rw_ios_per_sec;
	int64_t rw_mbytes_per_sec, r_mbytes_per_sec, w_mbytes_per_sec; /* MiB */
};

/* Checked, and then unused. */
struct rpc_bdev_set_options {
	int64_t io_pool_size;
	int64_t io_cache_size;
	int64_t small_buf_pool_size, large_buf_pool_size;
	int64_t iobuf_small_cache_size, iobuf_large_cache_size;
	bool auto_examine;
};

struct rpc_bdev_null_resize {
	const char *name;
	int64_t new_size; /* MiB */
};

/* Malloc and null. */
struct rpc_bdev_memory_create {
	const char *name;
	const char *uuid;
	int64_t num_blocks;
	int64_t block_size;
	int64_t physical_block_size; /* malloc only */
};

/* aio and uring. */
struct rpc_bdev_file_create {
	const char *name;
	const char *filename;
	const char *uuid;
	int64_t block_size;
	bool readonly;
	bool fallocate;
	bool sqpoll;
	int64_t sqpoll_idle_ms;
};

struct rpc_bdev_error_create {
	const char *base_name;
	const char *name;
	const char *uuid;
};

struct rpc_bdev_error_inject_error {
	const char *name;
	const char *io_type;
	const char *error_type;
	int64_t num, queue_depth;
	int64_t corrupt_offset, corrupt_value;
};

struct rpc_bdev_delay_create {
	const char *name;
	const char *base_bdev_name;
	const char *uuid;
	int64_t avg_read_latency, p99_read_latency; /* us */
	int64_t avg_write_latency, p99_write_latency;
};

struct rpc_bdev_delay_update_latency {
	const char *delay_bdev_name;
	const char *latency_type;
	int64_t latency_us;
};

/* ---- NVMe ---- */

enum rpc_nvme_index {
	RPC_NVME_ATTACH_CONTROLLER,
	RPC_NVME_DETACH_CONTROLLER,
	RPC_NVME_GET_CONTROLLERS,
	RPC_NVME_SET_OPTIONS,
	RPC_NVME_SET_HOTPLUG,
	RPC_NVME_RESET_CONTROLLER,
	RPC_NVME_ENABLE_CONTROLLER,
	RPC_NVME_DISABLE_CONTROLLER,
	RPC_NVME_GET_CONTROLLER_HEALTH_INFO,
	RPC_NVME_METHODS,
};
extern const struct rpc_schema rpc_nvme_schemas[RPC_NVME_METHODS + 1];
extern const struct rpc_method rpc_nvme_methods[RPC_NVME_METHODS + 1];

struct rpc_nvme_attach {
	const char *name;
	const char *trtype;
	const char *traddr;
	const char *subnqn;
	const char *hostnqn;
	const char *multipath;
	int64_t num_io_queues;
	/* checked, and then unused */
	const char *adrfam, *trsvcid, *priority, *hostaddr, *hostsvcid;
	bool prchk_reftag, prchk_guard, hdgst, ddgst;
	int64_t fabrics_connect_timeout_us, ctrlr_loss_timeout_sec, reconnect_delay_sec;
	int64_t fast_io_fail_timeout_sec, max_bdevs;
};

/* Also the address of a path, of which there is one. */
struct rpc_nvme_detach {
	const char *name;
	const char *trtype, *traddr;
	const char *adrfam, *trsvcid, *subnqn, *hostaddr, *hostsvcid;
};

struct rpc_nvme_controller {
	const char *name;
	int64_t cntlid; /* of a path, of which there is one */
};

struct rpc_nvme_set_options {
	const char *action_on_timeout;
	/* -1: as it is */
	int64_t timeout_us, timeout_admin_us, transport_retry_count, io_queue_requests;
	/* checked, and then unused */
	int64_t keep_alive_timeout_ms, arbitration_burst, low_priority_weight;
	int64_t medium_priority_weight, high_priority_weight, nvme_adminq_poll_period_us;
	int64_t nvme_ioq_poll_period_us, bdev_retry_count, transport_ack_timeout;
	int64_t ctrlr_loss_timeout_sec, reconnect_delay_sec, fast_io_fail_timeout_sec;
	int64_t transport_tos, rdma_srq_size, rdma_max_cq_size, rdma_cm_event_timeout_ms;
	int64_t retry_count;
	bool delay_cmd_submit, disable_auto_failback, generate_uuids, nvme_error_stat;
	bool io_path_stat, allow_accel_sequence;
	struct rpc_strings dhchap_digests, dhchap_dhgroups;
};

struct rpc_nvme_set_hotplug {
	bool enable;
	int64_t period_us;
};

/* ---- SCSI ---- */

enum rpc_scsi_index {
	RPC_SCSI_SET_DISK_STATE,
	RPC_SCSI_METHODS,
};
extern const struct rpc_schema rpc_scsi_schemas[RPC_SCSI_METHODS + 1];
extern const struct rpc_method rpc_scsi_methods[RPC_SCSI_METHODS + 1];

struct rpc_scsi_set_disk_state {
	const char *name;
	const char *uuid;
	const char *boot_id;
	json_t *modes;
	json_t *reservations;
};

/* ---- vhost ---- */

enum rpc_vhost_index {
	RPC_VHOST_CREATE_BLK_CONTROLLER,
	RPC_VHOST_GET_CONTROLLERS,
	RPC_VHOST_DELETE_CONTROLLER,
	RPC_VHOST_CONTROLLER_SET_COALESCING,
	RPC_VHOST_CONTROLLER_SET_SLOW_THRESHOLD,
	RPC_VHOST_CONTROLLER_RESIZE,
	RPC_VHOST_GET_STATS,
	RPC_VHOST_GET_SLOW_REQUESTS,
	RPC_VIRTIO_BLK_CREATE_TRANSPORT,
	RPC_VIRTIO_BLK_GET_TRANSPORTS,
	RPC_VHOST_METHODS,
};
extern const struct rpc_schema rpc_vhost_schemas[RPC_VHOST_METHODS + 1];
extern const struct rpc_method rpc_vhost_methods[RPC_VHOST_METHODS + 1];

struct rpc_vhost_create_blk_controller {
	const char *ctrlr;
	const char *dev_name;
	const char *transport;
	struct cpumask cpumask;
	bool readonly;
	bool packed_ring;
	bool writeback;
};

/* For methods that take a controller and nothing else. */
struct rpc_vhost_ctrlr {
	const char *ctrlr;
};

struct rpc_vhost_set_coalescing {
	const char *ctrlr;
	int64_t delay_base_us;
	int64_t iops_threshold;
};

struct rpc_vhost_get_stats {
	const char *ctrlr;
	bool per_queue;
};

struct rpc_vhost_set_slow_threshold {
	const char *ctrlr;
	int64_t threshold_us;
};

struct rpc_vhost_get_slow_requests {
	const char *ctrlr;
	int64_t count;
};

enum rpc_vhost_scsi_index {
	RPC_VHOST_CREATE_SCSI_CONTROLLER,
	RPC_VHOST_START_SCSI_CONTROLLER,
	RPC_VHOST_SCSI_ADD_TARGET,
	RPC_VHOST_SCSI_REMOVE_TARGET,
	RPC_VHOST_SCSI_METHODS,
};
extern const struct rpc_schema rpc_vhost_scsi_schemas[RPC_VHOST_SCSI_METHODS + 1];
extern const struct rpc_method rpc_vhost_scsi_methods[RPC_VHOST_SCSI_METHODS + 1];

struct rpc_vhost_create_scsi_controller {
	const char *ctrlr;
	struct cpumask cpumask;
	bool delay;
	int64_t sense_size, cdb_size;
};

struct rpc_vhost_scsi_add_target {
	const char *ctrlr;
	int64_t scsi_target_num;
	struct rpc_strings bdev_name;
};

struct rpc_vhost_scsi_remove_target {
	const char *ctrlr;
	int64_t scsi_target_num;
};

#endif
