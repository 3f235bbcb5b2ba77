/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_device: an NVMe 1.4 controller in software, for tests and benchmarks of NVMe drivers. This
 * comment is its manual.
 *
 *     nvme_device --socket PATH --control PATH [--spin] [-c LINE]...
 *
 * It serves one client at a time at --socket, by vfio-user: PCI configuration space (region 7), BAR
 * 0 (region 0) with the registers, which are accessed by messages, and the doorbells from 0x1000
 * on, which can be mapped: a doorbell is a plain store there. Memory is mapped by DMA_MAP with a
 * file descriptor (without one: EOPNOTSUPP). Interrupts are MSI-X eventfds; the REQ interrupt says
 * that the device wants to go. When the client goes, the controller is reset, and namespaces stay.
 * It polls; after 200 µs with nothing to do it naps for 100 µs at a time, after 20 ms for 1 ms; or
 * never, with --spin. A message wakes it. Each -c is a line as for the control socket, before the
 * first client.
 *
 * SIGTERM, SIGINT or the line `stop` end it. Exit status: 0; 1 when it could not start; 3 when its
 * client broke rules (see "violations").
 *
 * At --control it takes lines of words, and answers each by one line: `ok [ANSWER]` or `error
 * TEXT`. Numbers as in C.
 *
 *     ns add NSID null|memory|file BLOCKS BLOCK_SIZE [PATH]
 *     ns remove NSID
 *     ns resize NSID BLOCKS
 *         NSID 1 to 64; 512 to 4096 bytes a block. A null one has no data. A file holds what
 *         survives a power loss, always. A client that is there gets an event, when it asked for
 *         such events.
 *     set NAME VALUE
 *         queues (I/O queue pairs: 127), vectors (128), mdts (5: 128 KiB; 1: 8 KiB, the least that
 *         there is; 0: no limit), noiob (0; `stats` counts commands across it as crossings), sgl
 *         (1), cache (1: there is a volatile one, on at first), fused (1), dbbuf (1), oncs
 *         (compare, DSM, write zeroes, verify), ready (1; 0: CSTS.RDY is never set), ready-ms (0:
 *         how long that takes), shutdown (1; 0: never done), listen (1; 0: the socket is gone),
 *         temperature (300 K; an event at the threshold), and the fields of CAP: cap-mqes (1023),
 *         cap-to (20), cap-dstrd (0), cap-mpsmin (0), cap-mpsmax (4), cap-css (1). What a driver
 *         reads when it starts counts from its next start on.
 *     identify ctrl|NSID FIELD VALUE     identify clear
 *         What the identify data says instead, whatever the device does: ctrl: nn, mdts, oncs,
 *         sqes, …; a namespace: nsze, ncap, nlbaf, flbas, lbads, ms, noiob, … (identify.c)
 *     fault KIND [queue=N|io|any] [opcode=N] [nsid=N] [nth=N] [count=N] [status=0x…] [ms=N] [cid=N]
 *     faults
 *     fault-clear
 *     release (what was delayed is carried out now)
 *         The nth (1) command of those that match (queue=io, any opcode, any namespace), and count
 *         (1) of them from there on, meet KIND: status (not carried out, ends with status: SCT << 8
 *         | SC, 0x4000: do not retry), lose (no completion), delay (carried out ms later; an abort
 *         reaches it before), phase (the completion's phase is wrong), cid (its identifier is cid),
 *         fatal (CSTS.CFS), remove, disconnect, power-loss. Answers its number; `faults` says how
 *         often each one was hit.
 *     fatal
 *     remove (all registers read as ones)
 *     replug
 *     request-removal (the REQ interrupt)
 *     disconnect
 *     power-loss [connected]
 *         What was written, and neither flushed nor with FUA, is gone; answers how many blocks. And
 *         so is the connection, unless connected.
 *     expect-durable [NSID [FIRST COUNT]]
 *         The driver's user was told that these blocks are durable. Those that are not are a
 *         violation.
 *     violations [clear]
 *         `ok total=N NAME=N… last=TEXT`: what the client did that it must not do; also a line on
 *         stderr as it happens (of one kind at most 100). The names: prp, sgl, iova, cid, doorbell,
 *         no-queue, queue, reserved, fused, command, register, unmap, not-durable, protocol (enum
 *         violation in device.h says what they are).
 *     stats
 *         `ok KEY=N…`: state, mappings, commands by opcode (io_0x02), interrupts, shutdowns.
 *     stop
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "device.h"

#define LOOK_NS        50000ULL   /* between two looks at the sockets */
#define DOORBELLS_NS   1000000ULL /* between two looks at doorbells of queues that are not there */
#define SPIN_NS        200000ULL  /* how long it polls with nothing to do */
#define LINES_MAX      100        /* on stderr, of one kind of violation */
#define ROUNDS         32
#define SHORT_NAP_NS   100000L
#define LONG_NAP_NS    1000000L
#define AWAKE_NS       20000000ULL /* naps are longer after that */
#define EXIT_VIOLATION 3
#define MAX_LINES      64
#define MAX_POLLED     (3 + MAX_CONTROLS)

const char *const violation_names[VIOLATIONS] = {
	[V_PRP] = "prp",
	[V_SGL] = "sgl",
	[V_IOVA] = "iova",
	[V_CID] = "cid",
	[V_DOORBELL] = "doorbell",
	[V_NO_QUEUE] = "no-queue",
	[V_QUEUE] = "queue",
	[V_RESERVED] = "reserved",
	[V_FUSED] = "fused",
	[V_COMMAND] = "command",
	[V_REGISTER] = "register",
	[V_UNMAP] = "unmap",
	[V_NOT_DURABLE] = "not-durable",
	[V_PROTOCOL] = "protocol",
};

static volatile sig_atomic_t stop_signal;

uint64_t
now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

void
violation(struct device *dev, enum violation kind, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(dev->violations.last, sizeof(dev->violations.last), format, arguments);
	va_end(arguments);
	dev->violations.counts[kind]++;
	dev->violations.total++;
	if (dev->violations.counts[kind] <= LINES_MAX)
		fprintf(stderr, "nvme_device: violation: %s: %s\n", violation_names[kind],
			dev->violations.last);
}

/* ---- what happens to all of it ---- */

void
device_remove(struct device *dev)
{
	dev->removed = true;
	controller_reset(dev, true);
}

uint64_t
device_power_loss(struct device *dev)
{
	uint64_t lost = 0;

	for (uint32_t i = 0; i < MAX_NAMESPACES; i++)
		lost += namespace_power_loss(&dev->namespaces[i]);
	return lost;
}

void
device_namespace_changed(struct device *dev, uint32_t nsid)
{
	struct controller *controller = &dev->controller;
	uint32_t at = 0;

	while (at < controller->changed_count && controller->changed_namespaces[at] != nsid)
		at++;
	if (at == controller->changed_count)
		controller->changed_namespaces[controller->changed_count++] = nsid;
	if (NVME_GET(controller->features.values[NVME_FEAT_FID_ASYNC_EVENT], FEAT_AE_NAN))
		event_raise(dev, NVME_AER_NOTICE, NVME_AER_NOTICE_NS_CHANGED,
			    NVME_LOG_LID_CHANGED_NS);
}

/* ---- the loop ---- */

/* Waits for a message, for at most nap ns. */
static void
look_at_sockets(struct device *dev, long nap)
{
	struct pollfd fds[MAX_POLLED] = {
		{.fd = dev->client.socket < 0 ? dev->listener : -1, .events = POLLIN},
		{.fd = dev->client.socket, .events = POLLIN},
		{.fd = dev->control_listener, .events = POLLIN},
	};
	struct timespec timeout = {.tv_nsec = nap};

	for (uint32_t i = 0; i < MAX_CONTROLS; i++)
		fds[3 + i] = (struct pollfd){.fd = dev->controls[i].socket, .events = POLLIN};
	if (ppoll(fds, MAX_POLLED, &timeout, NULL) <= 0)
		return;
	if (fds[1].revents != 0)
		server_receive(dev);
	else if (fds[0].revents != 0)
		server_accept(dev);
	for (uint32_t i = 0; i < MAX_CONTROLS; i++) {
		if (fds[3 + i].revents != 0)
			control_receive(dev, &dev->controls[i]);
	}
	if (fds[2].revents != 0)
		control_accept(dev);
}

/* Several times: looking at the clock is not for free. */
static bool
poll_queues(struct device *dev)
{
	bool busy = false;

	for (int round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < dev->controller.active_count && controller_runs(dev); i++)
			busy |= queue_poll(dev, dev->controller.active[i]);
	}
	return busy;
}

static long
nap_after(uint64_t idle)
{
	if (idle < SPIN_NS)
		return 0;
	return idle < AWAKE_NS ? SHORT_NAP_NS : LONG_NAP_NS;
}

static void
run(struct device *dev)
{
	uint64_t looked = 0, doorbells_looked = 0, last_busy = 0;

	while (!dev->stop && !stop_signal) {
		bool busy = poll_queues(dev);
		long nap;

		dev->now = now_ns();
		if (busy)
			last_busy = dev->now;
		nap = dev->spin ? 0 : nap_after(dev->now - last_busy);
		if (nap == 0 && dev->now - looked < LOOK_NS)
			continue;
		look_at_sockets(dev, nap);
		controller_tick(dev, dev->now);
		looked = dev->now;
		if (dev->now - doorbells_looked >= DOORBELLS_NS) {
			queues_check_doorbells(dev);
			doorbells_looked = dev->now;
		}
	}
}

/* ---- start ---- */

static void
on_signal(int number)
{
	stop_signal = number;
}

static struct device *
create_device(void)
{
	struct device *dev = calloc(1, sizeof(*dev));

	dev->listener = -1;
	dev->client.socket = -1;
	dev->client.request = -1;
	for (uint32_t i = 0; i < MAX_VECTORS; i++)
		dev->client.vectors[i] = -1;
	for (uint32_t i = 0; i < MAX_CONTROLS; i++)
		dev->controls[i].socket = -1;
	for (uint32_t i = 0; i < MAX_NAMESPACES; i++)
		dev->namespaces[i].fd = -1;
	dev->settings = (struct settings){
		.queues = MAX_QUEUES - 1,
		.vectors = MAX_VECTORS,
		.mdts = 5,
		.sgl = 1,
		.cache = 1,
		.fused = 1,
		.dbbuf = 1,
		.oncs = NVME_CTRL_ONCS_COMPARE | NVME_CTRL_ONCS_DSM | NVME_CTRL_ONCS_WRITE_ZEROES |
			NVME_CTRL_ONCS_VERIFY,
		.ready = 1,
		.shutdown = 1,
		.listen = 1,
		.temperature = 300,
		.mqes = 1023,
		.timeout = 20,
		.mpsmax = 4,
		.css = 1,
	};
	dev->bar0_fd = memfd_create("bar0", MFD_CLOEXEC);
	if (ftruncate(dev->bar0_fd, BAR0_SIZE) != 0)
		abort();
	dev->bar0 = mmap(NULL, BAR0_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, dev->bar0_fd, 0);
	if (dev->bar0 == MAP_FAILED)
		abort();
	features_reset(dev);
	pci_config_init(dev);
	return dev;
}

static void
destroy_device(struct device *dev)
{
	server_disconnect(dev);
	server_stop_listening(dev);
	close(dev->control_listener);
	unlink(dev->control_path);
	for (uint32_t i = 0; i < MAX_CONTROLS; i++) {
		if (dev->controls[i].socket >= 0)
			close(dev->controls[i].socket);
	}
	for (uint32_t i = 0; i < MAX_NAMESPACES; i++) {
		if (dev->namespaces[i].kind != NAMESPACE_NONE)
			namespace_remove(dev, &dev->namespaces[i]);
	}
	munmap(dev->bar0, BAR0_SIZE);
	close(dev->bar0_fd);
	free(dev);
}

static bool
parse_options(struct device *dev, int argc, char **argv)
{
	static const struct option options[] = {{"socket", required_argument, NULL, 's'},
						{"control", required_argument, NULL, 'C'},
						{"spin", no_argument, NULL, 'S'},
						{NULL, 0, NULL, 0}};
	char *lines[MAX_LINES];
	uint32_t count = 0;

	for (int option; (option = getopt_long(argc, argv, "c:", options, NULL)) != -1;) {
		if (option == 's')
			dev->socket_path = optarg;
		else if (option == 'C')
			dev->control_path = optarg;
		else if (option == 'S')
			dev->spin = true;
		else if (option == 'c' && count < MAX_LINES)
			lines[count++] = optarg;
		else
			return false;
	}
	if (dev->socket_path == NULL || dev->control_path == NULL || optind != argc)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		if (!control_run(dev, lines[i], stderr))
			return false;
	}
	return true;
}

int
main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal};
	struct device *dev = create_device();
	uint64_t violations;

	if (!parse_options(dev, argc, argv)) {
		fprintf(stderr,
			"usage: nvme_device --socket PATH --control PATH [--spin] [-c LINE]...\n");
		return 1;
	}
	controller_reset(dev, true);
	if ((dev->settings.listen && !server_listen(dev)) || !control_listen(dev)) {
		fprintf(stderr, "nvme_device: %s, %s: %s\n", dev->socket_path, dev->control_path,
			strerror(errno));
		return 1;
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	prctl(PR_SET_TIMERSLACK, 1UL);
	run(dev);
	server_disconnect(dev);
	violations = dev->violations.total;
	destroy_device(dev);
	return violations > 0 ? EXIT_VIOLATION : 0;
}
