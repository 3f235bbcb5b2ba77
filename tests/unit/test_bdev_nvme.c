/* SPDX-License-Identifier: BSD-3-Clause */
/* links: bdev thread env testlib */
/* NVMe disks: controllers that come, change and go. */
#include "nvme_disk_rig.h"

/* ---- attaching ---- */

static void
test_attach(void **state)
{
	const struct bdev_info *info;

	(void)state;
	fake[0].info.max_write_zeroes = 1 << 20;
	fake[0].ns[0].physical_block_size = 4096;
	fake[0].ns[0].discard_granularity = 8192;
	assert_int_equal(attach("nvme0", 0), 0);
	assert_json(bdev_nvme_names_json("nvme0"), "[\"nvme0n1\",\"nvme0n3\"]");
	info = info_of("nvme0n1");
	assert_string_equal(info->product_name, "NVMe disk");
	assert_string_equal(info->uuid, "ab000000-0000-0000-0000-000000000001");
	assert_int_equal(info->block_size, 512);
	assert_int_equal(info->physical_block_size, 4096);
	assert_int_equal(info->num_blocks, FAKE_BYTES / 512);
	assert_int_equal(info->discard_granularity, 8192);
	assert_true(info->write_cache);
	assert_false(info->read_only);
	assert_int_equal(info->io_types, (1u << BDEV_IO_TYPES) - 1);
	assert_int_equal(info_of("nvme0n3")->block_size, 4096);
	assert_int_equal(fake[0].opts.queue_size, NVME_QUEUE_SIZE);
	assert_int_equal(fake[0].tuning.action, NVME_TIMEOUT_ABORT);
	assert_int_equal(act(DETACH, "nvme0"), 0);
	assert_null(find("nvme0n1"));
	assert_int_equal(fake[0].detaches, 1);
	assert_null(bdev_nvme_names_json("nvme0"));
}

static void
test_limits_of_the_device(void **state)
{
	const struct bdev_info *info;

	(void)state;
	fake[0].info.oncs = 0;
	fake[0].info.write_cache = false;
	fake[0].ns[0].read_only = true;
	fake[0].ns[1].physical_block_size = 3 * 4096;
	assert_int_equal(attach("x", 0), 0);
	info = info_of("xn1");
	assert_true(info->read_only);
	info = info_of("xn3");
	assert_int_equal(info->io_types,
			 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_RESET);
	assert_int_equal(info->physical_block_size, 4096);
	assert_false(info->write_cache);
}

/* Less than a block at a time is nothing. */
static void
test_small_write_zeroes(void **state)
{
	(void)state;
	fake[0].info.max_write_zeroes = 2048;
	assert_int_equal(attach("x", 0), 0);
	assert_true(info_of("xn1")->io_types & 1u << BDEV_WRITE_ZEROES);
	assert_false(info_of("xn3")->io_types & 1u << BDEV_WRITE_ZEROES);
}

static void
test_attach_errors(void **state)
{
	struct bdev_nvme_opts opts = {
		.name = "a", .trtype = "pcie", .traddr = "01:00.0", .subnqn = "nqn.other"};
	struct call call = {.what = ATTACH, .opts = opts};
	static const struct {
		const char *name, *trtype, *traddr;
		const char *words;
	} bad[] = {
		{"", "PCIe", "0000:01:00.0", "must not be empty"},
		{"a/b", "PCIe", "0000:01:00.0", "must not contain"},
		{"n234567890123456789012345678901234567890123456789012345678901234", "PCIe",
		 "0000:01:00.0", "63 bytes"},
		{"a", "TCP", "127.0.0.1", "'TCP' is not served"},
		{"a", "PCIe", "nonsense", "is not a PCI address"},
		{"a", "VFIOUSER", "relative/path", "is not an absolute path"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct call one = {.what = ATTACH,
				   .opts = {.name = bad[i].name,
					    .trtype = bad[i].trtype,
					    .traddr = bad[i].traddr}};

		assert_int_equal(run(&one), -EINVAL);
		assert_non_null(strstr(rig_err.text, bad[i].words));
	}
	/* Another subsystem. */
	assert_int_equal(run(&call), -EINVAL);
	assert_non_null(strstr(rig_err.text, "not nqn.other"));
	assert_false(fake[0].attached);
	call.opts.subnqn = fake[0].info.subnqn;
	assert_int_equal(run(&call), 0);
	/* Names and addresses that are taken, however they are written. */
	assert_int_equal(attach("a", 1), -EEXIST);
	call.opts.name = "b";
	assert_int_equal(run(&call), -EEXIST);
	assert_non_null(strstr(rig_err.text, "as NVMe controller a"));
	/* No device, and one that does not work. */
	fake[1].present = false;
	assert_int_equal(attach("b", 1), -ENODEV);
	assert_string_equal(rig_err.text, "NVMe controller b: there is no device");
	fake[1].present = true;
	fake[1].attach_rc = -ETIMEDOUT;
	assert_int_equal(attach("b", 1), -ETIMEDOUT);
	assert_non_null(strstr(rig_err.text, "timed out"));
	assert_int_equal(act(DETACH, "b"), -ENODEV);
	assert_int_equal(act(RESET, "b"), -ENODEV);
	/* What failed is not in the way. */
	fake[1].attach_rc = 0;
	assert_int_equal(attach("b", 1), 0);
}

/* All or nothing. */
static void
test_name_of_a_namespace_is_taken(void **state)
{
	(void)state;
	make_null("nvme0n3", NULL);
	assert_int_equal(attach("nvme0", 0), -EEXIST);
	assert_null(find("nvme0n1"));
	assert_string_equal(info_of("nvme0n3")->product_name, "Null disk");
	assert_false(fake[0].attached);
	assert_int_equal(attach("nvme1", 0), 0);
}

/* ---- uuids ---- */

static void
test_uuids(void **state)
{
	char derived[BDEV_UUID_TEXT], eui[BDEV_UUID_TEXT];
	struct nvme_ns *ns = fake[0].ns;

	(void)state;
	memset(ns[0].uuid, 0x11, sizeof(ns[0].uuid));
	memset(ns[1].nguid, 0, sizeof(ns[1].nguid));
	assert_int_equal(attach("a", 0), 0);
	assert_string_equal(info_of("an1")->uuid, "11111111-1111-1111-1111-111111111111");
	strcpy(derived, info_of("an3")->uuid);
	assert_int_equal(derived[14], '8');
	/* The same each time, whatever it is called; others for others. */
	act(DETACH, "a");
	assert_int_equal(attach("b", 0), 0);
	assert_string_equal(info_of("bn3")->uuid, derived);
	act(DETACH, "b");
	fake[0].info.serial[0] = 'G';
	assert_int_equal(attach("c", 0), 0);
	assert_string_not_equal(info_of("cn3")->uuid, derived);
	act(DETACH, "c");
	ns[1].eui64[0] = 1;
	assert_int_equal(attach("d", 0), 0);
	strcpy(eui, info_of("dn3")->uuid);
	assert_string_not_equal(eui, derived);
	act(DETACH, "d");
	fake[0].info.serial[0] = 'F';
	assert_int_equal(attach("e", 0), 0);
	assert_string_equal(info_of("en3")->uuid, eui);
}

static void
test_uuid_that_is_taken(void **state)
{
	char other[BDEV_UUID_TEXT];

	(void)state;
	make_null("null", "ab000000-0000-0000-0000-000000000001");
	assert_int_equal(attach("a", 0), 0);
	strcpy(other, info_of("an1")->uuid);
	assert_string_not_equal(other, "ab000000-0000-0000-0000-000000000001");
	/* It stays what it is when namespaces change. */
	fake_tell(&fake[0], NVME_EVENT_NAMESPACES);
	assert_string_equal(info_of("an1")->uuid, other);
	act(DETACH, "a");
	assert_int_equal(attach("b", 0), 0);
	assert_string_equal(info_of("bn1")->uuid, other);
}

/* ---- namespaces that change ---- */

static struct {
	unsigned int removed, resized;
} told;

static void
on_event(void *ctx, enum bdev_event event)
{
	(void)ctx;
	told.removed += event == BDEV_EVENT_REMOVE;
	told.resized += event == BDEV_EVENT_RESIZE;
}

static struct bdev_desc *
open_listening(const char *name)
{
	struct bdev_desc *opened = NULL;

	memset(&told, 0, sizeof(told));
	thread_set_current(rig_app);
	assert_int_equal(bdev_open(name, BDEV_WRITES, "test", on_event, NULL, &opened, &rig_err),
			 0);
	thread_set_current(NULL);
	return opened;
}

static size_t
count_names(const char *name)
{
	json_t *names = bdev_nvme_names_json(name);
	size_t count = json_array_size(names);

	json_decref(names);
	return count;
}

static void
test_namespaces_change(void **state)
{
	struct bdev_desc *opened;

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	opened = open_listening("an3");
	/* A new one between the others, and one that grows. */
	fake[0].ns[2] = fake[0].ns[1];
	fake[0].ns[2].blocks -= 8;
	fake[0].ns[1] = fake_ns(2, 512);
	fake[0].ns_count = 3;
	fake_tell(&fake[0], NVME_EVENT_NAMESPACES);
	UNTIL(find("an2") != NULL);
	assert_json(bdev_nvme_names_json("a"), "[\"an1\",\"an2\",\"an3\"]");
	assert_int_equal(told.resized, 1);
	assert_int_equal(info_of("an3")->num_blocks, FAKE_BYTES / 4096 - 8);
	/* One that goes waits for its user. */
	fake[0].ns_count = 2;
	fake_tell(&fake[0], NVME_EVENT_NAMESPACES);
	UNTIL(told.removed == 1);
	rig_settle();
	assert_null(find("an3"));
	rig_close(opened);
	UNTIL(count_names("a") == 2);
	assert_json(bdev_nvme_names_json("a"), "[\"an1\",\"an2\"]");
	/* Formatted anew, and another one in its place: not what it was. */
	opened = open_listening("an1");
	fake[0].ns[0].block_size = 4096;
	fake_tell(&fake[0], NVME_EVENT_NAMESPACES);
	UNTIL(told.removed == 1);
	rig_close(opened);
	UNTIL(find("an1") != NULL);
	assert_int_equal(info_of("an1")->block_size, 4096);
	opened = open_listening("an2");
	fake[0].ns[1].nguid[3] = 9;
	fake_tell(&fake[0], NVME_EVENT_NAMESPACES);
	UNTIL(told.removed == 1);
	rig_close(opened);
	UNTIL(find("an2") != NULL);
	assert_string_equal(info_of("an2")->uuid, "ab000009-0000-0000-0000-000000000002");
	/* All of them. */
	fake[0].ns_count = 0;
	fake_tell(&fake[0], NVME_EVENT_NAMESPACES);
	UNTIL(find("an1") == NULL && find("an2") == NULL);
	assert_json(bdev_nvme_names_json("a"), "[]");
}

/* Later ones whose name is taken are left out. */
static void
test_new_namespace_whose_name_is_taken(void **state)
{
	(void)state;
	assert_int_equal(attach("a", 0), 0);
	make_null("an7", NULL);
	fake[0].ns[2] = fake_ns(7, 512);
	fake[0].ns[3] = fake_ns(8, 512);
	fake[0].ns_count = 4;
	fake_tell(&fake[0], NVME_EVENT_NAMESPACES);
	UNTIL(find("an8") != NULL);
	assert_json(bdev_nvme_names_json("a"), "[\"an1\",\"an3\",\"an8\"]");
}

/* ---- disappearing ---- */

static void
skip_retry(void)
{
	skipped_ns += BDEV_NVME_RETRY_US * 1000ull + 1000000;
}

static const char *
state_of(const char *name)
{
	static char text[64];
	json_t *array = bdev_nvme_controllers_json(name);
	json_t *path = json_array_get(json_object_get(json_array_get(array, 0), "ctrlrs"), 0);

	snprintf(text, sizeof(text), "%s", json_string_value(json_object_get(path, "state")));
	json_decref(array);
	return text;
}

static void
test_gone_and_back(void **state)
{
	uint64_t notification = next_notification();
	struct rig_request *waiting;
	unsigned int attaches;
	char config[512], *dump;
	json_t *array;

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	array = bdev_nvme_config_json();
	dump = json_dumps(array, 0);
	snprintf(config, sizeof(config), "%s", dump);
	free(dump);
	json_decref(array);
	open_disk("an1");
	waiting = rig_request_new(find("an1"));
	fake[0].held = true;
	rig_request_set(waiting, BDEV_READ, 0, back, 512);
	rig_submit(channel, rig_io[0], waiting);
	fake_pull(&fake[0]);
	rig_wait(&waiting->finished);
	assert_int_equal(waiting->status, -ENODEV);
	free(waiting);
	assert_null(find("an1"));
	assert_int_equal(fake[0].detaches, 0);
	close_disk();
	UNTIL(fake[0].detaches == 1);
	assert_string_equal(state_of("a"), "reconnect_is_delayed");
	assert_true(was_notified(notification, NOTIFY_NVME_CONTROLLER_STATE, "a: missing"));
	assert_int_equal(act(RESET, "a"), -ENODEV);
	assert_non_null(strstr(rig_err.text, "has disappeared"));
	/* It is still configured, and tried again. */
	array = bdev_nvme_config_json();
	dump = json_dumps(array, 0);
	assert_string_equal(dump, config);
	free(dump);
	json_decref(array);
	attaches = fake[0].attaches;
	rig_settle();
	assert_int_equal(fake[0].attaches, attaches);
	skip_retry();
	UNTIL(fake[0].attaches == attaches + 1);
	fake[0].present = true;
	fake[0].held = false;
	notification = next_notification();
	skip_retry();
	UNTIL(find("an1") != NULL);
	assert_string_equal(state_of("a"), "enabled");
	UNTIL(was_notified(notification, NOTIFY_NVME_CONTROLLER_STATE, "a: enabled"));
	open_disk("an1");
	assert_int_equal(transfer(BDEV_WRITE, 0, 0, data, 512), 0);
	close_disk();
}

static void
test_keep_trying(void **state)
{
	struct call call = {.what = ATTACH,
			    .opts = {.name = "a",
				     .trtype = fake[1].trtype,
				     .traddr = fake[1].traddr,
				     .keep_trying = true}};
	uint64_t notification = next_notification();

	(void)state;
	fake[1].present = false;
	assert_int_equal(run(&call), 0);
	assert_json(bdev_nvme_names_json("a"), "[]");
	assert_true(was_notified(notification, NOTIFY_NVME_CONTROLLER_STATE,
				 "a: missing: there is no device"));
	assert_json(bdev_nvme_config_json(),
		    "[{\"method\":\"bdev_nvme_attach_controller\",\"params\":{\"name\":\"a\","
		    "\"trtype\":\"VFIOUSER\",\"traddr\":\"/nowhere/device\"}}]");
	/* The same reason is told once. */
	notification = next_notification();
	skip_retry();
	UNTIL(fake[1].attaches == 2);
	rig_settle();
	assert_false(was_notified(notification, NOTIFY_NVME_CONTROLLER_STATE, "a: "));
	fake[1].present = true;
	skip_retry();
	UNTIL(find("an1") != NULL);
	assert_int_equal(act(DETACH, "a"), 0);
	/* One that is missing can be detached. */
	fake[1].present = false;
	assert_int_equal(run(&call), 0);
	assert_int_equal(act(DETACH, "a"), 0);
	assert_json(bdev_nvme_config_json(), "[]");
}

/* Who keeps trying does not wait for ever; others see what becomes of it. */
static void
test_attach_that_hangs(void **state)
{
	struct call stubborn = {.what = ATTACH,
				.opts = {.name = "a",
					 .trtype = fake[0].trtype,
					 .traddr = fake[0].traddr,
					 .keep_trying = true}};
	struct call normal = {
		.what = ATTACH,
		.opts = {.name = "b", .trtype = fake[1].trtype, .traddr = fake[1].traddr}};

	(void)state;
	fake[0].attach_hangs = fake[1].attach_hangs = true;
	begin(&stubborn);
	begin(&normal);
	UNTIL(fake[0].attaches == 1 && fake[1].attaches == 1);
	assert_false(stubborn.finished);
	skipped_ns += 11000000000u;
	rig_wait(&stubborn.finished);
	assert_int_equal(stubborn.rc, 0);
	assert_false(normal.finished);
	/* What is being attached is not configured yet. */
	assert_json(bdev_nvme_config_json(), "[]");
	assert_int_equal(act(DETACH, "b"), 0);
	rig_wait(&normal.finished);
	assert_int_equal(normal.rc, -ECANCELED);
	assert_int_equal(act(DETACH, "a"), 0);
}

static void
test_detach_of_a_disk_in_use(void **state)
{
	struct call detach = {.what = DETACH, .name = "a"};
	struct bdev_desc *opened;

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	opened = open_listening("an3");
	begin(&detach);
	UNTIL(told.removed == 1);
	rig_settle();
	assert_false(detach.finished);
	assert_int_equal(fake[0].detaches, 0);
	assert_string_equal(state_of("a"), "deleting");
	assert_int_equal(act(DETACH, "a"), -EBUSY);
	assert_int_equal(act(RESET, "a"), -ENODEV);
	assert_int_equal(attach("a", 1), -EEXIST);
	rig_close(opened);
	rig_wait(&detach.finished);
	assert_int_equal(detach.rc, 0);
	assert_int_equal(fake[0].detaches, 1);
}

/* Its requests wait for the controller, and so would the detach. */
static void
test_detach_of_a_disabled_one(void **state)
{
	struct call detach = {.what = DETACH, .name = "a"};

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	open_disk("an1");
	assert_int_equal(act(DISABLE, "a"), 0);
	assert_string_equal(state_of("a"), "disabled");
	assert_int_equal(act(DISABLE, "a"), -EALREADY);
	assert_int_equal(act(RESET, "a"), -EBUSY);
	rig_request_set(request, BDEV_READ, 0, back, 512);
	rig_submit(channel, rig_io[0], request);
	rig_settle();
	assert_false(request->finished);
	begin(&detach);
	rig_wait(&request->finished);
	assert_int_equal(request->status, 0);
	close_disk();
	rig_wait(&detach.finished);
	assert_int_equal(attach("a", 0), 0);
	assert_int_equal(act(ENABLE, "a"), -EALREADY);
}

/* ---- what clients see ---- */

static void
test_options(void **state)
{
	struct bdev_nvme_settings settings, before;

	(void)state;
	bdev_nvme_get_settings(&before);
	assert_int_equal(attach("a", 0), 0);
	settings = before;
	assert_int_equal(bdev_nvme_parse_action("reset", &settings.tuning.action), 0);
	assert_int_equal(bdev_nvme_parse_action("explode", &settings.tuning.action), -EINVAL);
	settings.tuning.io_timeout_us = 5000000;
	settings.tuning.retries = 1;
	settings.queue_size = 32;
	bdev_nvme_set_settings(&settings);
	assert_int_equal(fake[0].tuning.action, NVME_TIMEOUT_RESET);
	assert_int_equal(fake[0].tuning.io_timeout_us, 5000000);
	assert_int_equal(attach("b", 1), 0);
	assert_int_equal(fake[1].opts.queue_size, 32);
	assert_int_equal(fake[1].tuning.retries, 1);
	assert_json(bdev_nvme_config_json(),
		    "[{\"method\":\"bdev_nvme_set_options\",\"params\":{\"action_on_timeout\":"
		    "\"reset\",\"timeout_us\":5000000,\"timeout_admin_us\":10000000,"
		    "\"transport_retry_count\":1,\"io_queue_requests\":32}},"
		    "{\"method\":\"bdev_nvme_attach_controller\",\"params\":{\"name\":\"a\","
		    "\"trtype\":\"PCIe\",\"traddr\":\"0000:01:00.0\"}},"
		    "{\"method\":\"bdev_nvme_attach_controller\",\"params\":{\"name\":\"b\","
		    "\"trtype\":\"VFIOUSER\",\"traddr\":\"/nowhere/device\"}}]");
	bdev_nvme_set_settings(&before);
}

static void
test_descriptions(void **state)
{
	json_t *array;

	(void)state;
	assert_int_equal(attach("a", 0), 0);
	thread_set_current(rig_app);
	assert_json(bdev_driver_specific(bdev_by_name("an3")),
		    "{\"nvme\":[{\"controller\":\"a\",\"trid\":{\"trtype\":\"PCIe\",\"traddr\":"
		    "\"0000:01:00.0\"},\"ctrlr_data\":{\"cntlid\":7,\"vendor_id\":\"0x1b36\","
		    "\"model_number\":\"Fake\",\"serial_number\":\"F-1\",\"firmware_revision\":"
		    "\"1.0\",\"subnqn\":\"nqn.2014-08.org.nvmexpress:fake\"},\"vs\":{"
		    "\"nvme_version\":\"1.4\"},\"ns_data\":{\"id\":3},\"pci_address\":"
		    "\"0000:01:00.0\"}]}");
	thread_set_current(NULL);
	array = bdev_nvme_controllers_json("a");
	assert_int_equal(json_array_size(array), 1);
	assert_json(json_incref(json_object_get(json_array_get(array, 0), "ctrlrs")),
		    "[{\"state\":\"enabled\",\"trid\":{\"trtype\":\"PCIe\",\"traddr\":"
		    "\"0000:01:00.0\"},\"cntlid\":7,\"host\":{\"nqn\":\"\",\"addr\":\"\","
		    "\"svcid\":\"\"}}]");
	json_decref(array);
	assert_null(bdev_nvme_controllers_json("b"));
	assert_json(bdev_nvme_controllers_json(NULL),
		    "[{\"name\":\"a\",\"ctrlrs\":[{\"state\":\"enabled\",\"trid\":{\"trtype\":"
		    "\"PCIe\",\"traddr\":\"0000:01:00.0\"},\"cntlid\":7,\"host\":{\"nqn\":\"\","
		    "\"addr\":\"\",\"svcid\":\"\"}}],\"interrupts\":false,\"configured\":true,"
		    "\"bdevs\":[\"an1\",\"an3\"],\"model_number\":\"Fake\",\"serial_number\":"
		    "\"F-1\",\"firmware_revision\":\"1.0\",\"subnqn\":"
		    "\"nqn.2014-08.org.nvmexpress:fake\",\"max_transfer\":131072,"
		    "\"write_cache\":true,\"io_queues\":4,\"io_queues_used\":0,\"sgl\":false,"
		    "\"shadow_doorbells\":false,\"resets\":0,\"timeouts\":0,\"aborts\":0}]");
}

static void
test_health(void **state)
{
	struct call call = {.what = HEALTH, .name = "a"};
	uint64_t notification = next_notification();

	(void)state;
	assert_int_equal(run(&call), -ENODEV);
	assert_int_equal(attach("a", 0), 0);
	fake[0].health = (struct nvme_smart_log){.critical_warning = 0x41,
						 .temperature = {0x2c, 1},
						 .avail_spare = 3,
						 .spare_thresh = 10,
						 .percent_used = 200};
	fake[0].health.data_units_read[0] = 5;
	fake[0].health.media_errors[15] = 1;
	assert_int_equal(run(&call), 0);
	assert_int_equal(json_integer_value(json_object_get(call.answer, "temperature_celsius")),
			 27);
	assert_int_equal(json_integer_value(json_object_get(call.answer, "data_units_read")), 5);
	assert_true(json_integer_value(json_object_get(call.answer, "media_errors")) == INT64_MAX);
	assert_string_equal(json_string_value(json_object_get(call.answer, "critical_warnings")),
			    "spare capacity is low, unknown");
	json_decref(call.answer);
	fake_tell(&fake[0], NVME_EVENT_HEALTH);
	UNTIL(was_notified(notification, NOTIFY_NVME_HEALTH,
			   "a: critical warning: spare capacity is low"));
	fake[0].health.critical_warning = 0;
	fake_tell(&fake[0], NVME_EVENT_HEALTH);
	UNTIL(was_notified(notification, NOTIFY_NVME_HEALTH, "a: no critical warning"));
	fake[0].info.state = NVME_FAILED;
	fake_tell(&fake[0], NVME_EVENT_STATE);
	UNTIL(was_notified(notification, NOTIFY_NVME_CONTROLLER_STATE, "a: failed"));
	assert_string_equal(state_of("a"), "failed");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_attach),
		TEST(test_limits_of_the_device),
		TEST(test_small_write_zeroes),
		TEST(test_attach_errors),
		TEST(test_name_of_a_namespace_is_taken),
		TEST(test_uuids),
		TEST(test_uuid_that_is_taken),
		TEST(test_namespaces_change),
		TEST(test_new_namespace_whose_name_is_taken),
		TEST(test_gone_and_back),
		TEST(test_keep_trying),
		TEST(test_attach_that_hangs),
		TEST(test_detach_of_a_disk_in_use),
		TEST(test_detach_of_a_disabled_one),
		TEST(test_options),
		TEST(test_descriptions),
		TEST(test_health),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
