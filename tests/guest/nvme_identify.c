/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_identify ADDRESS [gone]: drives an NVMe controller by hand through the PCIe transport, or a
 * vfio-user one where ADDRESS is a path: enables it, identifies it with an interrupt and without,
 * from memory at every place that the space gives out, resets it and does so again. Then, with
 * "gone", waits until the device is taken away. Runs in a guest (qemu-tests/test_vfio.py).
 */
/* links: nvme thread env */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "env.h"
#include "nvme_transport.h"
#include "thread.h"

#define CAP      0x00u
#define VS       0x08u
#define CC       0x14u
#define CSTS     0x1cu
#define AQA      0x24u
#define ASQ      0x28u
#define ACQ      0x30u
#define CC_START 0x00460001u /* 16-byte completions, 64-byte commands, enabled */

#define ENTRIES    16u
#define PAGE       4096u
#define DEADLINE_S 20
#define LARGE      (32u << 20)

struct controller {
	struct nvme_transport *transport;
	uint32_t *sq, *cq;
	uint64_t sq_iova, cq_iova;
	uint32_t sq_tail, cq_head, phase, stride;
};

static void
fail(const char *what, const char *why)
{
	printf("FAILED: %s: %s\n", what, why);
	exit(1);
}

static void *
alloc(struct controller *controller, size_t size, uint64_t *iova)
{
	struct errmsg err;
	void *memory = dma_alloc(controller->transport->dma, size, iova, &err);

	if (memory == NULL)
		fail("memory", err.text);
	return memory;
}

static void
wait_ready(struct controller *controller, uint32_t ready)
{
	time_t end = time(NULL) + DEADLINE_S;

	while ((controller->transport->ops->read(controller->transport, CSTS, 4) & 1) != ready) {
		if (time(NULL) > end)
			fail("CSTS.RDY", "it does not change");
		usleep(1000);
	}
}

static void
disable(struct controller *controller)
{
	controller->transport->ops->write(controller->transport, CC, 4, 0);
	wait_ready(controller, 0);
}

static void
enable(struct controller *controller)
{
	struct nvme_transport *transport = controller->transport;

	disable(controller);
	memset(controller->cq, 0, PAGE);
	controller->sq_tail = controller->cq_head = 0;
	controller->phase = 1;
	controller->stride = 1u << (transport->ops->read(transport, CAP, 8) >> 32 & 0xf);
	transport->ops->write(transport, AQA, 4, (ENTRIES - 1) << 16 | (ENTRIES - 1));
	transport->ops->write(transport, ASQ, 8, controller->sq_iova);
	transport->ops->write(transport, ACQ, 8, controller->cq_iova);
	transport->ops->write(transport, CC, 4, CC_START);
	wait_ready(controller, 1);
}

/* IDENTIFY CONTROLLER to iova. fd: the interrupt, or -1: by looking. */
static void
identify(struct controller *controller, uint64_t iova, int fd)
{
	uint32_t *command = controller->sq + 16 * controller->sq_tail;
	_Atomic uint32_t *completion = (_Atomic uint32_t *)controller->cq + 4 * controller->cq_head;
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	time_t end = time(NULL) + DEADLINE_S;
	uint64_t count;

	memset(command, 0, 64);
	command[0] = 0x06 | controller->sq_tail << 16;
	memcpy(&command[6], &iova, sizeof(iova));
	command[10] = 1;
	controller->sq_tail = (controller->sq_tail + 1) % ENTRIES;
	atomic_thread_fence(memory_order_seq_cst);
	controller->transport->doorbells[0] = controller->sq_tail;
	if (fd >= 0 && (poll(&poll_fd, 1, DEADLINE_S * 1000) != 1 ||
			read(fd, &count, sizeof(count)) != sizeof(count)))
		fail("interrupt", "none came");
	while ((atomic_load(&completion[3]) >> 16 & 1) != controller->phase)
		if (time(NULL) > end)
			fail("IDENTIFY", "it does not complete");
	if (atomic_load(&completion[3]) >> 17 != 0)
		fail("IDENTIFY", "its status is not 0");
	controller->cq_head = (controller->cq_head + 1) % ENTRIES;
	if (controller->cq_head == 0)
		controller->phase ^= 1;
	controller->transport->doorbells[controller->stride] = controller->cq_head;
}

static void
print_identity(const char *how, const char *data)
{
	printf("%s: serial %.20s model %.40s\n", how, data + 4, data + 24);
}

/* 32 MiB that are not dma_alloc()'s, as guest memory is; the device writes into the last page. */
static void
identify_large(struct controller *controller)
{
	struct dma_space *space = controller->transport->dma;
	int fd = memfd_create("large", MFD_CLOEXEC);
	char *memory = ftruncate(fd, LARGE) == 0
			       ? mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
			       : MAP_FAILED;
	struct dma_stats stats;
	struct errmsg err;
	uint64_t length = PAGE;
	uint32_t hint = 0;

	if (memory == MAP_FAILED || dma_map(space, memory, LARGE, fd, 0, &err) != 0)
		fail("dma_map", memory == MAP_FAILED ? strerror(errno) : err.text);
	identify(controller, dma_translate(space, memory + LARGE - PAGE, &length, &hint), -1);
	print_identity("mapped", memory + LARGE - PAGE);
	dma_unmap(space, memory, LARGE);
	munmap(memory, LARGE);
	close(fd);
	dma_space_stats(space, &stats);
	printf("mappings %u\n", stats.mappings);
}

/* ---- going away ---- */

static bool is_gone;

static void
on_gone(void *ctx)
{
	(void)ctx;
	is_gone = true;
}

static void
wait_gone(struct controller *controller, struct thread *thread)
{
	time_t end = time(NULL) + DEADLINE_S;

	printf("waiting\n");
	fflush(stdout);
	thread_set_current(NULL);
	while (!is_gone && time(NULL) < end) {
		thread_poll(thread, env_ticks());
		usleep(1000);
	}
	thread_set_current(thread);
	printf("%s\n", atomic_load(&controller->transport->wanted_back) ? "wanted back"
		       : is_gone                                        ? "gone"
									: "still there");
	printf("CSTS %llx\n", (unsigned long long)controller->transport->ops->read(
				      controller->transport, CSTS, 4));
}

int
main(int argc, char **argv)
{
	struct controller controller = {0};
	struct errmsg err = {0};
	struct thread *thread;
	const struct nvme_transport_ops *ops;
	uint64_t iova, count;
	char *data;
	int rc, fd;

	if (argc < 2)
		return 2;
	ops = argv[1][0] == '/' ? &nvme_transport_vfio_user : &nvme_transport_pcie;
	thread_lib_init(NULL);
	thread = thread_create("app", NULL);
	thread_set_current(thread);
	rc = ops->open(argv[1], on_gone, NULL, &controller.transport, &err);
	if (rc != 0)
		fail(strerror(-rc), err.text);
	printf("version %llx vectors %u doorbells %u\n",
	       (unsigned long long)ops->read(controller.transport, VS, 4),
	       controller.transport->vectors, controller.transport->doorbells_size);
	controller.sq = alloc(&controller, PAGE, &controller.sq_iova);
	controller.cq = alloc(&controller, PAGE, &controller.cq_iova);
	data = alloc(&controller, PAGE, &iova);
	/*
	 * Before there are queues: QEMU's model (7.2) signals no vector that was off when its queue
	 * was made.
	 */
	rc = ops->set_interrupts(controller.transport, 1, &fd);
	if (rc != 0)
		fail("interrupts", strerror(-rc));
	enable(&controller);
	identify(&controller, iova, fd);
	print_identity("interrupt", data);
	memset(data, 0, PAGE);
	identify(&controller, iova, -1);
	print_identity("polled", data);
	identify_large(&controller);

	rc = ops->reset(controller.transport);
	printf("reset %d CC %llx\n", rc,
	       (unsigned long long)ops->read(controller.transport, CC, 4));
	memset(data, 0, PAGE);
	while (read(fd, &count, sizeof(count)) > 0)
		;
	enable(&controller);
	identify(&controller, iova, fd);
	print_identity("after reset", data);
	if (argc > 2)
		wait_gone(&controller, thread);
	if (!atomic_load(&controller.transport->gone))
		disable(&controller);

	dma_free(controller.transport->dma, data, PAGE);
	dma_free(controller.transport->dma, controller.cq, PAGE);
	dma_free(controller.transport->dma, controller.sq, PAGE);
	ops->close(controller.transport);
	thread_exit(thread);
	thread_set_current(NULL);
	while (!thread_is_exited(thread))
		thread_poll(thread, env_ticks());
	thread_destroy(thread);
	thread_lib_fini();
	printf("done\n");
	return 0;
}
