/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"

#define ROOM      "Block devices"
#define NAME_HELP "1 to 127 bytes, no '/' and no control characters"
#define UUID_HELP "default: a random one"

static const struct rpc_param get_bdevs_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_bdev_get_bdevs, name),
	 .help = "of one block device (or its UUID); default: all of them"},
	{.name = "timeout",
	 .type = RPC_INT,
	 .offset = offsetof(struct rpc_bdev_get_bdevs, timeout_ms),
	 .min = 0,
	 .max = 3600000,
	 .help = "milliseconds to wait for that block device to appear"},
};

static const struct rpc_param get_iostat_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_bdev_get_iostat, name),
	 .help = "of one block device; default: all of them"},
	{.name = "names",
	 .type = RPC_STRINGS,
	 .offset = offsetof(struct rpc_bdev_get_iostat, names),
	 .help = "of several block devices"},
	{.name = "per_channel",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct rpc_bdev_get_iostat, per_channel),
	 .help = "one entry for each thread that uses the block device, of which there must be "
		 "one"},
	{.name = "reset_mode",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_bdev_get_iostat, reset_mode),
	 .help = "\"all\": after this the counters start again from 0; \"maxmin\": only the "
		 "longest "
		 "and shortest latencies do; \"none\" (default)"},
};

static const struct rpc_param reset_iostat_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_bdev_reset_iostat, name),
	 .help = "of one block device; default: all of them"},
	{.name = "mode",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_bdev_reset_iostat, mode),
	 .help = "\"all\" (default), \"maxmin\": only the longest and shortest latencies, or "
		 "\"none\""},
};

static const struct rpc_param enable_histogram_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_enable_histogram, name),
	 .help = "of the block device"},
	{.name = "enable",
	 .type = RPC_BOOL,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_enable_histogram, enable),
	 .help = "true: on, from 0 if it was off; false: off"},
};

static const struct rpc_param get_histogram_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_get_histogram, name),
	 .help = "of the block device"},
	{.name = "per_channel",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct rpc_bdev_get_histogram, per_channel),
	 .help = "one entry for each channel (of a virtqueue) as well"},
};

#define RATE(param, most, text)                                                                    \
	{                                                                                          \
		.name = #param, .type = RPC_INT, .min = -1, .max = most, .preset = -1,             \
		.offset = offsetof(struct rpc_bdev_set_qos_limit, param),                          \
		.help = text "; 0: no limit; default, -1: as it is"                                \
	}
static const struct rpc_param set_qos_limit_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_set_qos_limit, name),
	 .help = "of the block device"},
	RATE(rw_ios_per_sec, INT64_MAX, "reads, writes, discards and write zeroes together"),
	RATE(rw_mbytes_per_sec, INT64_MAX >> 20, "MiB read and written"),
	RATE(r_mbytes_per_sec, INT64_MAX >> 20, "MiB read"),
	RATE(w_mbytes_per_sec, INT64_MAX >> 20, "MiB written"),
};

#define NO_EFFECT "accepted for clients that send it, and without effect: "
#define OPTION(param, member, text)                                                                \
	{                                                                                          \
		.name = param, .type = RPC_INT, .min = 0, .max = UINT32_MAX,                       \
		.offset = offsetof(struct rpc_bdev_set_options, member), .help = NO_EFFECT text    \
	}
static const struct rpc_param set_options_params[] = {
	OPTION("bdev_io_pool_size", io_pool_size, "requests live in their queues"),
	OPTION("bdev_io_cache_size", io_cache_size, "requests live in their queues"),
	{.name = "bdev_auto_examine",
	 .type = RPC_BOOL,
	 .offset = offsetof(struct rpc_bdev_set_options, auto_examine),
	 .preset = 1,
	 .help = NO_EFFECT "no block device is made by looking into another"},
	OPTION("small_buf_pool_size", small_buf_pool_size, "data stays in the guest's memory"),
	OPTION("large_buf_pool_size", large_buf_pool_size, "data stays in the guest's memory"),
	OPTION("iobuf_small_cache_size", iobuf_small_cache_size,
	       "data stays in the guest's memory"),
	OPTION("iobuf_large_cache_size", iobuf_large_cache_size,
	       "data stays in the guest's memory"),
};

#define MEMORY(member) offsetof(struct rpc_bdev_memory_create, member)
#define NUM_BLOCKS                                                                                 \
	{                                                                                          \
		.name = "num_blocks", .type = RPC_INT, .required = true,                           \
		.offset = MEMORY(num_blocks), .min = 1, .max = INT64_MAX, .help = "size in blocks" \
	}
#define BLOCK_SIZE                                                                                 \
	{                                                                                          \
		.name = "block_size", .type = RPC_INT, .required = true,                           \
		.offset = MEMORY(block_size), .min = 512, .max = 65536,                            \
		.help = "bytes, a power of two"                                                    \
	}

static const struct rpc_param malloc_create_params[] = {
	NUM_BLOCKS,
	BLOCK_SIZE,
	{.name = "physical_block_size",
	 .type = RPC_INT,
	 .offset = MEMORY(physical_block_size),
	 .min = 0,
	 .max = 1 << 20,
	 .help = "bytes, a power of two, at least the block size; default, 0: the block size"},
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = MEMORY(name),
	 .help = NAME_HELP "; default: the first free Malloc<n>"},
	{.name = "uuid", .type = RPC_STRING, .offset = MEMORY(uuid), .help = UUID_HELP},
};

static const struct rpc_param null_create_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = MEMORY(name),
	 .help = NAME_HELP},
	NUM_BLOCKS,
	BLOCK_SIZE,
	{.name = "uuid", .type = RPC_STRING, .offset = MEMORY(uuid), .help = UUID_HELP},
};

static const struct rpc_param null_resize_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_null_resize, name),
	 .help = "of the block device"},
	{.name = "new_size",
	 .type = RPC_INT,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_null_resize, new_size),
	 .min = 1,
	 .max = INT64_MAX >> 20,
	 .help = "MiB, not less than it has"},
};

#define FILE_CREATE(member) offsetof(struct rpc_bdev_file_create, member)
#define FILE_PARAMS                                                                                \
	{.name = "name",                                                                           \
	 .type = RPC_STRING,                                                                       \
	 .required = true,                                                                         \
	 .offset = FILE_CREATE(name),                                                              \
	 .help = NAME_HELP},                                                                       \
		{.name = "filename",                                                               \
		 .type = RPC_STRING,                                                               \
		 .required = true,                                                                 \
		 .offset = FILE_CREATE(filename),                                                  \
		 .help = "of a regular file or block device"},                                     \
		{.name = "block_size",                                                             \
		 .type = RPC_INT,                                                                  \
		 .offset = FILE_CREATE(block_size),                                                \
		 .min = 0,                                                                         \
		 .max = 65536,                                                                     \
		 .help = "bytes, a power of two; 0: 512 for files, the logical block size of a "   \
			 "device"},                                                                \
		{.name = "uuid",                                                                   \
		 .type = RPC_STRING,                                                               \
		 .offset = FILE_CREATE(uuid),                                                      \
		 .help = UUID_HELP},                                                               \
		{.name = "sqpoll",                                                                 \
		 .type = RPC_BOOL,                                                                 \
		 .offset = FILE_CREATE(sqpoll),                                                    \
		 .help = "a kernel thread takes the requests, which saves system calls and "       \
			 "costs a CPU while there is I/O; it runs where no reactor does, if it "   \
			 "can"},                                                                   \
	{                                                                                          \
		.name = "sqpoll_idle_ms", .type = RPC_INT, .offset = FILE_CREATE(sqpoll_idle_ms),  \
		.min = 0, .max = 60000,                                                            \
		.help = "with sqpoll: how long that thread spins after the last request; 0: 10"    \
	}

static const struct rpc_param aio_create_params[] = {
	FILE_PARAMS,
	{.name = "readonly",
	 .type = RPC_BOOL,
	 .offset = FILE_CREATE(readonly),
	 .help = "open it for reading only"},
	{.name = "fallocate",
	 .type = RPC_BOOL,
	 .offset = FILE_CREATE(fallocate),
	 .help = "accepted for clients that send it: discard and write zeroes always use "
		 "fallocate() where it works"},
};

static const struct rpc_param uring_create_params[] = {FILE_PARAMS};

static const struct rpc_param error_create_params[] = {
	{.name = "base_name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_error_create, base_name),
	 .help = "of the block device below"},
	{.name = "name",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_bdev_error_create, name),
	 .help = NAME_HELP "; default: EE_<base_name>"},
	{.name = "uuid",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_bdev_error_create, uuid),
	 .help = UUID_HELP},
};

#define INJECT(member) offsetof(struct rpc_bdev_error_inject_error, member)
static const struct rpc_param error_inject_error_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = INJECT(name),
	 .help = "of the block device that bdev_error_create made"},
	{.name = "io_type",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = INJECT(io_type),
	 .help = "read, write, flush, unmap, write_zeroes, all; clear: nothing fails any more, and "
		 "what is pending does now"},
	{.name = "error_type",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = INJECT(error_type),
	 .help = "failure; nomem; pending: no end before clear or a reset; corrupt_data: one byte "
		 "of what is read or written is another one"},
	{.name = "num",
	 .type = RPC_INT,
	 .offset = INJECT(num),
	 .min = 0,
	 .max = UINT32_MAX,
	 .preset = 1,
	 .help = "of requests, in place of what is left; 0: none"},
	{.name = "queue_depth",
	 .type = RPC_INT,
	 .offset = INJECT(queue_depth),
	 .min = 0,
	 .max = UINT32_MAX,
	 .help = "only while so many others of the same thread are under way"},
	{.name = "corrupt_offset",
	 .type = RPC_INT,
	 .offset = INJECT(corrupt_offset),
	 .min = 0,
	 .max = INT64_MAX,
	 .help = "bytes from the beginning of a request; a shorter one stays as it is"},
	{.name = "corrupt_value",
	 .type = RPC_INT,
	 .offset = INJECT(corrupt_value),
	 .min = 0,
	 .max = 255,
	 .help = "XORed with that byte, 1 to 255; corrupt_data needs it"},
};

#define LATENCY(param, text)                                                                       \
	{                                                                                          \
		.name = #param, .type = RPC_INT, .required = true, .min = 0, .max = INT64_MAX,     \
		.offset = offsetof(struct rpc_bdev_delay_create, param), .help = text              \
	}
static const struct rpc_param delay_create_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_delay_create, name),
	 .help = NAME_HELP},
	{.name = "base_bdev_name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_delay_create, base_bdev_name),
	 .help = "of the block device below"},
	LATENCY(avg_read_latency, "microseconds that reads take longer"),
	LATENCY(p99_read_latency, "microseconds that one read of a hundred takes longer"),
	LATENCY(avg_write_latency, "microseconds that writes take longer"),
	LATENCY(p99_write_latency, "microseconds that one write of a hundred takes longer"),
	{.name = "uuid",
	 .type = RPC_STRING,
	 .offset = offsetof(struct rpc_bdev_delay_create, uuid),
	 .help = UUID_HELP},
};

static const struct rpc_param delay_update_latency_params[] = {
	{.name = "delay_bdev_name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_delay_update_latency, delay_bdev_name),
	 .help = "of the block device that bdev_delay_create made"},
	{.name = "latency_type",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_delay_update_latency, latency_type),
	 .help = "avg_read, p99_read, avg_write or p99_write"},
	{.name = "latency_us",
	 .type = RPC_INT,
	 .required = true,
	 .offset = offsetof(struct rpc_bdev_delay_update_latency, latency_us),
	 .min = 0,
	 .max = INT64_MAX,
	 .help = "microseconds"},
};

static const struct rpc_param name_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct rpc_name, name),
	 .help = "of the block device"},
};

#define TAKES(table, type)                                                                         \
	.params = table, .param_count = RPC_COUNT(table), .params_size = sizeof(type)
#define DELETES(method, old_name, what)                                                            \
	{                                                                                          \
		.name = method, .alias = old_name, .room = ROOM,                                   \
		.flags = RPC_RUNTIME | RPC_CHANGES, TAKES(name_params, struct rpc_name),           \
		.help = "Deletes " what                                                            \
			" that nobody uses, or gives up one that the state names and that could "  \
			"not be made. Answers true.\n"                                             \
			"Errors: -19 (No such device), -16 (a controller uses it)."                \
	}
#define RESCANS(method)                                                                            \
	{                                                                                          \
		.name = method, .room = ROOM, .flags = RPC_RUNTIME,                                \
		TAKES(name_params, struct rpc_name),                                               \
		.help = "Looks at the size of the file again; running guests see the new size. "   \
			"Answers true.\n"                                                          \
			"Errors: -19 (No such device), -16 (the file is smaller, and a "           \
			"controller uses the block device, which keeps its size)."                 \
	}
#define CREATE_ERRORS                                                                              \
	"Errors: -17 (File exists: the name or UUID is taken), -22 (a bad name or size)"
#define ON_TOP "It has the size of the one below, and is removed with it. "
#define ON_TOP_ERRORS                                                                              \
	CREATE_ERRORS ", -19 (No such device below), -16 (the one below is a SCSI disk)."
#define FILE_ERRORS                                                                                \
	CREATE_ERRORS ", -2 (no such file), -13 (no permission), -21 (a folder), -11 (another "    \
		      "process has locked it)."

const struct rpc_schema rpc_bdev_schemas[RPC_BDEV_METHODS + 1] = {
	[RPC_BDEV_GET_BDEVS] =
		{
			.name = "bdev_get_bdevs",
			.alias = "get_bdevs",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(get_bdevs_params, struct rpc_bdev_get_bdevs),
			.help = "Answers an array of block devices.\n"
				"Errors: -19 (No such device: none of that name, or not in time).",
			.columns = "name,product_name,block_size,num_blocks,uuid,claimed",
		},
	[RPC_BDEV_GET_IOSTAT] =
		{
			.name = "bdev_get_iostat",
			.alias = "get_bdevs_iostat",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(get_iostat_params, struct rpc_bdev_get_iostat),
			.help = "Answers {tick_rate, ticks, bdevs}: what each block device has "
				"done since it was made; with per_channel {tick_rate, ticks, name, "
				"channels}.\n"
				"Errors: -19 (No such device), -22 (per_channel without one name).",
			.columns = "bdevs:name,reads=num_read_ops,bytes_read,writes=num_write_ops,"
				   "bytes_written,"
				   "unmaps=num_unmap_ops,bytes_unmapped",
		},
	[RPC_BDEV_RESET_IOSTAT] =
		{
			.name = "bdev_reset_iostat",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(reset_iostat_params, struct rpc_bdev_reset_iostat),
			.help = "Lets the counters of bdev_get_iostat start again from 0. Answers "
				"true.\n"
				"Errors: -19 (No such device).",
		},
	[RPC_BDEV_ENABLE_HISTOGRAM] =
		{
			.name = "bdev_enable_histogram",
			.alias = "enable_bdev_histogram",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(enable_histogram_params, struct rpc_bdev_enable_histogram),
			.help = "Switches the latency histogram of a block device on or off, while "
				"it is used. Costs nothing while off. Answers true.\n"
				"Errors: -19 (No such device), -12 (no memory).",
		},
	[RPC_BDEV_GET_HISTOGRAM] =
		{
			.name = "bdev_get_histogram",
			.alias = "get_bdev_histogram",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(get_histogram_params, struct rpc_bdev_get_histogram),
			.help = "Answers {histogram, bucket_shift, tsc_rate, granularity, "
				"min_range, max_range, count, percentiles[{percentile, "
				"latency_ns}], "
				"channels[{thread_id, user, label, histogram, count, "
				"percentiles}]}. "
				"A histogram is base64 of 58 ranges of 128 "
				"little-endian 64-bit counters: of latencies in ticks of tsc_rate, "
				"one tick wide each in ranges 0 and 1, then twice as wide in each "
				"range.\n"
				"Errors: -19 (No such device), -22 (it is off).",
			.columns = "percentiles:percentile,latency_ns",
		},
	[RPC_BDEV_SET_QOS_LIMIT] =
		{
			.name = "bdev_set_qos_limit",
			.alias = "set_bdev_qos_limit",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(set_qos_limit_params, struct rpc_bdev_set_qos_limit),
			.help = "Limits what all users of a block device do with it per second, "
				"together and from now on; what waits is looked at anew. Queues "
				"that wait get the same share. After a pause, what 20 ms allow may "
				"be done at once. Costs nothing without limits. Answers true.\n"
				"Errors: -19 (No such device), -22 (no limit is given), -12 (no "
				"memory).",
		},
	[RPC_BDEV_SET_OPTIONS] =
		{
			.name = "bdev_set_options",
			.alias = "set_bdev_options",
			.room = ROOM,
			.flags = RPC_STARTUP | RPC_RUNTIME,
			TAKES(set_options_params, struct rpc_bdev_set_options),
			.help = "Sizes of pools that other targets have. Nothing here is allocated "
				"from pools, so it checks its parameters and answers true.",
		},
	[RPC_BDEV_WAIT_FOR_EXAMINE] =
		{
			.name = "bdev_wait_for_examine",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			.help = "Answers true when all block devices are there, which they are "
				"when the calls that make them have answered.",
		},
	[RPC_BDEV_EXAMINE] =
		{
			.name = "bdev_examine",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(name_params, struct rpc_name),
			.help = "Answers true: no block device is made by looking into another.\n"
				"Errors: -19 (No such device).",
		},
	[RPC_BDEV_MALLOC_CREATE] =
		{
			.name = "bdev_malloc_create",
			.alias = "construct_malloc_bdev",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(malloc_create_params, struct rpc_bdev_memory_create),
			.help = "Makes a block device in the daemon's memory, filled with zeroes. "
				"Answers its name.\n" CREATE_ERRORS ", -12 (no memory).",
		},
	[RPC_BDEV_MALLOC_DELETE] =
		DELETES("bdev_malloc_delete", "delete_malloc_bdev", "a block device in memory"),
	[RPC_BDEV_NULL_CREATE] =
		{
			.name = "bdev_null_create",
			.alias = "construct_null_bdev",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(null_create_params, struct rpc_bdev_memory_create),
			.help = "Makes a block device that forgets what is written and reads "
				"nothing. Answers its name.\n" CREATE_ERRORS ".",
		},
	[RPC_BDEV_NULL_RESIZE] =
		{
			.name = "bdev_null_resize",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(null_resize_params, struct rpc_bdev_null_resize),
			.help = "Makes a null block device larger; running guests see the new "
				"size. Answers true.\n"
				"Errors: -19 (No such device), -22 (it would become smaller).",
		},
	[RPC_BDEV_NULL_DELETE] =
		DELETES("bdev_null_delete", "delete_null_bdev", "a null block device"),
	[RPC_BDEV_AIO_CREATE] =
		{
			.name = "bdev_aio_create",
			.alias = "construct_aio_bdev",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(aio_create_params, struct rpc_bdev_file_create),
			.help = "Makes a block device of a file or a kernel block device, through "
				"io_uring. Answers its name.\n" FILE_ERRORS,
		},
	[RPC_BDEV_AIO_RESCAN] = RESCANS("bdev_aio_rescan"),
	[RPC_BDEV_AIO_DELETE] = DELETES("bdev_aio_delete", "delete_aio_bdev",
					"a file's block device (the file stays)"),
	[RPC_BDEV_URING_CREATE] =
		{
			.name = "bdev_uring_create",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(uring_create_params, struct rpc_bdev_file_create),
			.help = "The same as bdev_aio_create, under the name of the other client "
				"command. Answers its name.\n" FILE_ERRORS,
		},
	[RPC_BDEV_URING_RESCAN] = RESCANS("bdev_uring_rescan"),
	[RPC_BDEV_URING_DELETE] =
		DELETES("bdev_uring_delete", NULL, "a file's block device (the file stays)"),
	[RPC_BDEV_ERROR_CREATE] =
		{
			.name = "bdev_error_create",
			.alias = "construct_error_bdev",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(error_create_params, struct rpc_bdev_error_create),
			.help = "Makes a block device on top of another one that fails as "
				"bdev_error_inject_error says. " ON_TOP "Answers its "
				"name.\n" ON_TOP_ERRORS,
		},
	[RPC_BDEV_ERROR_INJECT_ERROR] =
		{
			.name = "bdev_error_inject_error",
			.alias = "bdev_inject_error",
			.room = ROOM,
			.flags = RPC_RUNTIME,
			TAKES(error_inject_error_params, struct rpc_bdev_error_inject_error),
			.help = "Lets the next requests of a type fail, for testing. Is not kept "
				"over a restart. Answers true.\n"
				"Errors: -19 (No such device), -22 (an unknown type, or data of a "
				"type without data).",
		},
	[RPC_BDEV_ERROR_DELETE] = DELETES("bdev_error_delete", "delete_error_bdev",
					  "an error block device (the one below stays)"),
	[RPC_BDEV_DELAY_CREATE] =
		{
			.name = "bdev_delay_create",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(delay_create_params, struct rpc_bdev_delay_create),
			.help = "Makes a block device on top of another one that is slower. " ON_TOP
				"Answers its name.\n" ON_TOP_ERRORS,
		},
	[RPC_BDEV_DELAY_UPDATE_LATENCY] =
		{
			.name = "bdev_delay_update_latency",
			.room = ROOM,
			.flags = RPC_RUNTIME | RPC_CHANGES,
			TAKES(delay_update_latency_params, struct rpc_bdev_delay_update_latency),
			.help = "Changes one latency, also for requests that are under way. "
				"Answers "
				"true.\n"
				"Errors: -19 (No such device), -22 (an unknown type).",
		},
	[RPC_BDEV_DELAY_DELETE] =
		DELETES("bdev_delay_delete", NULL, "a delay block device (the one below stays)"),
};
