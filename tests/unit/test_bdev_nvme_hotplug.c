/* SPDX-License-Identifier: BSD-3-Clause */
/* links: bdev thread env testlib */
/* NVMe devices that are bound to vfio-pci: found in a sysfs of our own, attached by themselves. */
#include "nvme_fake.h"

#include <ftw.h>
#include <limits.h>
#include <sys/stat.h>

#include "../../lib/bdev/bdev_nvme.h"
#include "vfio.h"

static char root[64];

/* ---- a machine ---- */

static void
make_folders(const char *path)
{
	char part[PATH_MAX];

	snprintf(part, sizeof(part), "%s", path);
	for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(part, 0755);
		*slash = '/';
	}
}

static void
add_device(const char *address, const char *class, const char *driver)
{
	char path[PATH_MAX], target[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/class", root, address);
	make_folders(path);
	file = fopen(path, "w");
	assert_non_null(file);
	fprintf(file, "%s\n", class);
	fclose(file);
	if (driver == NULL)
		return;
	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/driver", root, address);
	snprintf(target, sizeof(target), "../../drivers/%s", driver);
	assert_int_equal(symlink(target, path), 0);
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

static int
setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(root, sizeof(root), "%s/pci-XXXXXX",
		 tmp != NULL && strlen(tmp) < 40 ? tmp : "/tmp");
	if (mkdtemp(root) == NULL)
		return -1;
	vfio_set_root(root);
	fake_reset_all();
	return rig_setup(state);
}

static void
fini(void *arg)
{
	(void)arg;
	bdev_nvme_fini();
}

static int
teardown(void **state)
{
	rig_run(fini, NULL);
	fake_free_all();
	vfio_set_root("");
	rig_teardown(state);
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int
set_hotplug(bool enable)
{
	int rc;

	rig_err.text[0] = '\0';
	thread_set_current(rig_app);
	rc = bdev_nvme_set_hotplug(enable, 1000, true, &rig_err);
	thread_set_current(NULL);
	return rc;
}

static void
need_events(void)
{
	if (set_hotplug(true) == 0)
		return;
	printf("# skip: %s\n", rig_err.text);
	skip();
}

static bool
is_there(const char *name)
{
	bool there;

	thread_set_current(rig_app);
	there = bdev_by_name(name) != NULL;
	thread_set_current(NULL);
	return there;
}

static void
wait_for(const char *name, bool there)
{
	uint64_t deadline = now_ms() + DEADLINE_MS;

	while (is_there(name) != there) {
		if (rig_poll() == POLLER_IDLE)
			usleep(50);
		assert_true(now_ms() < deadline);
	}
}

/* ---- tests ---- */

static void
test_devices_that_are_there(void **state)
{
	json_t *config, *controllers;

	(void)state;
	add_device("0000:01:00.0", "0x010802", "vfio-pci");
	add_device("0000:02:00.0", "0x010802", "nvme");
	add_device("0000:03:00.0", "0x020000", "vfio-pci");
	add_device("0000:04:00.0", "0x010802", NULL);
	need_events();
	wait_for("nvme-0000:01:00.0n1", true);
	assert_true(is_there("nvme-0000:01:00.0n3"));
	assert_true(fake[0].opts.interrupts);
	/* Not part of the configuration, but for the switch. */
	config = bdev_nvme_config_json();
	assert_int_equal(json_array_size(config), 1);
	json_decref(config);
	controllers = bdev_nvme_controllers_json(NULL);
	assert_int_equal(json_array_size(controllers), 1);
	assert_true(json_is_false(json_object_get(json_array_get(controllers, 0), "configured")));
	json_decref(controllers);
	/* Off: what is there stays. */
	assert_int_equal(set_hotplug(false), 0);
	rig_settle();
	assert_true(is_there("nvme-0000:01:00.0n1"));
}

/* Gone is forgotten; enabling again looks again. */
static void
test_gone_and_back(void **state)
{
	(void)state;
	add_device("0000:01:00.0", "0x010802", "vfio-pci");
	need_events();
	wait_for("nvme-0000:01:00.0n1", true);
	fake_pull(&fake[0]);
	wait_for("nvme-0000:01:00.0n1", false);
	while (!TAILQ_EMPTY(&bdev_nvme_controllers))
		rig_poll();
	fake[0].present = true;
	need_events();
	wait_for("nvme-0000:01:00.0n1", true);
}

struct attach {
	struct bdev_nvme_opts opts;
	int rc;
};

static void
attach_run(void *arg)
{
	struct attach *attach = arg;

	attach->rc = bdev_nvme_attach(&attach->opts, &rig_err);
}

static void
test_one_that_has_a_name_keeps_it(void **state)
{
	struct attach attach = {
		.opts = {.name = "mine", .trtype = "PCIe", .traddr = "0000:01:00.0"}};

	(void)state;
	add_device("0000:01:00.0", "0x010802", "vfio-pci");
	rig_run(attach_run, &attach);
	assert_int_equal(attach.rc, 0);
	need_events();
	rig_settle();
	assert_true(is_there("minen1"));
	assert_int_equal(fake[0].attaches, 1);
}

struct detach {
	const char *name;
	int rc;
};

static void
detach_run(void *arg)
{
	struct detach *detach = arg;

	detach->rc = bdev_nvme_detach(detach->name, &rig_err);
}

static void
bound(const char *address)
{
	char event[256];
	int length = snprintf(event, sizeof(event),
			      "bind@/devices%cACTION=bind%cDRIVER=vfio-pci%cPCI_CLASS=10802%c"
			      "PCI_SLOT_NAME=%s",
			      0, 0, 0, 0, address);

	thread_set_current(rig_app);
	assert_true(bdev_nvme_hotplug_event(event, (size_t)length + 1));
	thread_set_current(NULL);
}

/* What a client detached is for somebody else, whatever is looked for meanwhile. */
static void
test_one_that_was_let_go(void **state)
{
	struct detach detach = {.name = "nvme-0000:01:00.0"};

	(void)state;
	fake[1].trtype = "PCIe";
	fake[1].traddr = "0000:02:00.0";
	add_device("0000:01:00.0", "0x010802", "vfio-pci");
	need_events();
	wait_for("nvme-0000:01:00.0n1", true);
	rig_run(detach_run, &detach);
	assert_int_equal(detach.rc, 0);
	add_device("0000:02:00.0", "0x010802", "vfio-pci");
	bound("0000:02:00.0");
	wait_for("nvme-0000:02:00.0n1", true);
	rig_settle();
	assert_false(is_there("nvme-0000:01:00.0n1"));
	/* Bound anew. */
	bound("0000:01:00.0");
	wait_for("nvme-0000:01:00.0n1", true);
}

#define PATH          "/devices/pci0000:00/0000:00:04.0\0"
#define IS_BIND(text) bdev_nvme_uevent_is_bind(text, sizeof(text))

static void
test_events(void **state)
{
	/* As the kernel sends it; and cut anywhere, it is none. */
	static const char event[] = "bind@" PATH "ACTION=bind\0DEVPATH=" PATH
				    "SUBSYSTEM=pci\0DRIVER=vfio-pci\0PCI_CLASS=10802\0"
				    "PCI_ID=1B36:0010\0PCI_SLOT_NAME=0000:00:04.0";
	size_t enough = sizeof(event) - sizeof("PCI_ID=1B36:0010\0PCI_SLOT_NAME=0000:00:04.0");

	(void)state;
	assert_true(IS_BIND(event));
	for (size_t length = 0; length < sizeof(event); length++)
		assert_int_equal(bdev_nvme_uevent_is_bind(event, length), length >= enough - 1);
	assert_false(IS_BIND("bind@" PATH "ACTION=bind\0DRIVER=nvme\0PCI_CLASS=10802"));
	assert_false(IS_BIND("bind@" PATH "ACTION=bind\0DRIVER=vfio-pci\0PCI_CLASS=20000"));
	assert_false(IS_BIND("unbind@" PATH "ACTION=unbind\0DRIVER=vfio-pci\0PCI_CLASS=10802"));
	assert_false(IS_BIND("bind@" PATH "ACTION=bind\0DRIVER=vfio-pcix\0PCI_CLASS=10802"));
	assert_false(IS_BIND(""));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events),  TEST(test_devices_that_are_there),
		TEST(test_gone_and_back),       TEST(test_one_that_has_a_name_keeps_it),
		TEST(test_one_that_was_let_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
