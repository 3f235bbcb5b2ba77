/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_attach ADDRESS [gone]: the driver with a controller of this machine: attaches it, with and
 * without interrupts, says what it found, reads its first block by copy, resets it, reads again,
 * and detaches it. With "gone", waits until it is wanted back or taken away first. Runs in a guest
 * (qemu-tests/test_vfio.py).
 */
/* links: nvme thread env */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "coroutine.h"
#include "env.h"
#include "nvme.h"
#include "work.h"

#define DEADLINE_S 60
#define PENDING    12345

static struct thread *app;
static const char *address;
static bool wait_for_removal, is_gone;

static void
fail(const char *what, const char *why)
{
	printf("FAILED: %s: %s\n", what, why);
	exit(1);
}

static void
on_event(void *ctx, enum nvme_event event)
{
	(void)ctx;
	is_gone |= event == NVME_EVENT_GONE;
}

struct reading {
	struct nvme_request request;
	int rc;
};

static void
on_done(struct nvme_request *request, int rc)
{
	((struct reading *)request)->rc = rc;
}

/* The first block of the first namespace. [waits] */
static void
read_block(struct nvme_ctrlr *ctrlr, const char *how)
{
	const struct nvme_ns *ns = nvme_ns_next(ctrlr, 0);
	struct nvme_qpair *qpair = nvme_qpair_get(ctrlr);
	char data[4096] = "";
	const struct iovec iov = {data, sizeof(data)};
	struct reading reading = {{.iov = &iov, .iovcnt = 1, .done = on_done}, PENDING};

	if (ns == NULL || qpair == NULL || ns->block_size > sizeof(data))
		fail(how, "no namespace, or no queue pair");
	reading.request.length = ns->block_size;
	nvme_command_range(&reading.request.command, nvme_cmd_read, ns->nsid, 0, 1, 0);
	nvme_qpair_submit(qpair, &reading.request);
	nvme_qpair_flush(qpair);
	while (reading.rc == PENDING)
		coroutine_sleep(1000);
	printf("%s: rc %d data %.17s\n", how, reading.rc, data);
	nvme_qpair_put(qpair);
}

static void
print_info(struct nvme_ctrlr *ctrlr)
{
	const struct nvme_ctrlr_info *info = nvme_get_info(ctrlr);
	struct nvme_smart_log health;
	uint32_t nsid = 0;

	printf("model %s serial %s version %x queues %u transfer %llu cache %d shadows %d\n",
	       info->model, info->serial, info->version, info->io_queues,
	       (unsigned long long)info->max_transfer, info->write_cache, info->shadow_doorbells);
	for (const struct nvme_ns *ns; (ns = nvme_ns_next(ctrlr, nsid)) != NULL; nsid = ns->nsid)
		printf("namespace %u: %llu blocks of %u\n", ns->nsid,
		       (unsigned long long)ns->blocks, ns->block_size);
	if (nvme_get_health(ctrlr, &health) == 0)
		printf("temperature %u\n", health.temperature[0] | health.temperature[1] << 8);
}

static void
attach_and_detach(bool interrupts)
{
	struct nvme_opts opts = {.name = "Nvme0",
				 .trtype = "PCIe",
				 .traddr = address,
				 .interrupts = interrupts,
				 .io_queues = 2,
				 .tuning = {.action = NVME_TIMEOUT_ABORT,
					    .io_timeout_us = NVME_IO_TIMEOUT_US,
					    .retries = NVME_RETRIES}};
	struct nvme_ctrlr *ctrlr;
	struct errmsg err = {""};

	if (nvme_attach(&opts, on_event, NULL, &ctrlr, &err) != 0)
		fail("attach", err.text);
	print_info(ctrlr);
	read_block(ctrlr, interrupts ? "interrupt" : "polled");
	if (nvme_reset(ctrlr, &err) != 0)
		fail("reset", err.text);
	read_block(ctrlr, "after reset");
	if (interrupts && wait_for_removal) {
		printf("waiting\n");
		fflush(stdout);
		while (!is_gone)
			coroutine_sleep(10000);
		printf("gone\n");
		read_block(ctrlr, "gone");
	}
	nvme_detach(ctrlr);
}

static void
run(void *done)
{
	attach_and_detach(false);
	attach_and_detach(true);
	*(bool *)done = true;
}

int
main(int argc, char **argv)
{
	time_t end = time(NULL) + DEADLINE_S;
	bool done = false;

	if (argc < 2)
		return 2;
	address = argv[1];
	wait_for_removal = argc > 2;
	thread_lib_init(NULL);
	work_pool_start(NULL);
	app = thread_create("app", NULL);
	coroutine_start(app, "main", run, &done);
	while (!done) {
		if (time(NULL) > end)
			fail("main", "it takes too long");
		if (thread_poll(app, env_ticks()) == POLLER_IDLE)
			usleep(100);
	}
	thread_set_current(app);
	thread_exit(app);
	thread_set_current(NULL);
	while (!thread_is_exited(app))
		thread_poll(app, env_ticks());
	thread_destroy(app);
	work_pool_stop();
	thread_lib_fini();
	printf("done\n");
	return 0;
}
