/* SPDX-License-Identifier: BSD-3-Clause */
/* links: virtio */
/*
 * The device dies after each instruction that changes shared memory, and another one goes on with
 * what it finds: every request must be completed exactly once, and come in the order in which the
 * driver offered it. The new device dies at each step of its repairs, too.
 *
 * While the device works, the shared memory is write-protected. An instruction that writes there
 * ends in SIGSEGV; it is let through with the processor's trap flag set, so that SIGTRAP comes
 * right after it, and then a copy of the memory is kept.
 */
#include "virtq_rig.h"

#include <signal.h>
#include <stdio.h>
#include <ucontext.h>

#define SIZE          4
#define REQUESTS      16
#define SEEDS         4
#define MAX_SNAPSHOTS 4096
#define FIRST_INDEX   65529 /* of the split ring: both indexes go round */
#define TRAP_FLAG     0x100
#define WORLD_BYTES   4096 /* mapped for a world: whole pages */

#define AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED  (1u << VRING_PACKED_DESC_F_USED)

/* What outlives the device: shared memory, and the driver. A request is known by its buffer. */
struct world {
	union {
		struct vring_desc desc[SIZE];
		struct vring_packed_desc ring[SIZE];
	};
	union {
		_Alignas(4) uint16_t avail[3 + SIZE];
		struct vring_packed_desc_event driver_event;
	};
	union {
		_Alignas(4) uint16_t used[3 + 4 * SIZE];
		struct vring_packed_desc_event device_event;
	};
	_Alignas(64) uint8_t inflight[256];
	uint8_t data[REQUESTS];

	/* the driver's */
	uint16_t next; /* split: indexes; packed: positions */
	uint16_t seen;
	uint16_t free_descs;
	uint32_t offered;
	uint8_t request_of[SIZE]; /* by id; REQUESTS: free */
	uint8_t completions[REQUESTS];
};

_Static_assert(sizeof(struct world) <= WORLD_BYTES, "mapped");

/* The device under test, and the world it lives in. */
struct device {
	struct world *world;
	bool packed;
	struct guest_mem *mem;
	struct virtq *vq;
	struct virtq_slot *slots[SIZE];
	uint32_t count;
	uint32_t next_request; /* no earlier one may come */
	uint64_t random;
};

static struct snapshots {
	struct world *watched; /* NULL: none */
	struct world *worlds;
	uint32_t count;
} snapshots;

/* Seed and snapshot of what runs, for messages. */
static unsigned int running_seed, running_snapshot, running_repair;

static void
print_place(void)
{
	print_error("seed %u, snapshot %u, repair %u\n", running_seed, running_snapshot,
		    running_repair);
}

#define check(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			print_place();                                                             \
			fail_msg("%s", #condition);                                                \
		}                                                                                  \
	} while (0)

static uint32_t
pick(struct device *device, uint32_t below)
{
	device->random ^= device->random >> 12;
	device->random ^= device->random << 25;
	device->random ^= device->random >> 27;
	return (uint32_t)((device->random * 0x2545f4914f6cdd1dULL) >> 33) % below;
}

/* ---- store by store ---- */

static void
protect(int protection)
{
	if (mprotect(snapshots.watched, WORLD_BYTES, protection) != 0)
		abort();
}

/* Before a store. */
static void
on_fault(int number, siginfo_t *info, void *context)
{
	uintptr_t offset = (uintptr_t)info->si_addr - (uintptr_t)snapshots.watched;

	if (!snapshots.watched || offset >= WORLD_BYTES) {
		signal(number, SIG_DFL); /* it comes again */
		return;
	}
	protect(PROT_READ | PROT_WRITE);
	((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

/* After it. */
static void
on_trap(int number, siginfo_t *info, void *context)
{
	struct snapshots *s = &snapshots;

	(void)number;
	(void)info;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
	if (s->count < MAX_SNAPSHOTS &&
	    memcmp(&s->worlds[s->count - 1], s->watched, sizeof(*s->watched)) != 0)
		memcpy(&s->worlds[s->count++], s->watched, sizeof(*s->watched));
	protect(PROT_READ);
}

/* Keeps a copy of it now, and then after each change until stop_watching(). */
static void
watch(struct world *world)
{
	memcpy(&snapshots.worlds[snapshots.count++], world, sizeof(*world));
	snapshots.watched = world;
	protect(PROT_READ);
}

static void
stop_watching(void)
{
	protect(PROT_READ | PROT_WRITE);
	snapshots.watched = NULL;
}

/* ---- the driver ---- */

static uint16_t
avail_flags(uint16_t position)
{
	return position & SIZE ? USED : AVAIL;
}

/* Requests of a packed ring have one, two or three descriptors. */
static uint16_t
descs_of(const struct device *device, uint32_t request)
{
	return device->packed ? 1 + request * 2 % 3 : 1;
}

static void
put_packed(struct world *world, uint32_t request, uint16_t id, uint16_t descs)
{
	for (; descs > 0; descs--) {
		world->ring[world->next % SIZE] = (struct vring_packed_desc){
			.addr = offsetof(struct world, data) + request,
			.len = 1,
			.id = id,
			.flags = avail_flags(world->next) | (descs > 1 ? NEXT : 0),
		};
		world->next++;
	}
}

static void
offer(struct device *device)
{
	struct world *world = device->world;
	uint32_t request = world->offered;
	uint16_t descs, id = 0;

	if (request == REQUESTS)
		return;
	descs = descs_of(device, request);
	if (descs > world->free_descs)
		return;
	while (world->request_of[id] != REQUESTS)
		id++;
	world->request_of[id] = request;
	world->free_descs -= descs;
	world->offered++;
	if (device->packed) {
		put_packed(world, request, id, descs);
		return;
	}
	world->desc[id] = (struct vring_desc){
		.addr = offsetof(struct world, data) + request,
		.len = 1,
	};
	world->avail[2 + world->next++ % SIZE] = id;
	world->avail[1] = world->next;
}

/* Takes the next used one; false: there is none. */
static bool
take_used(struct device *device)
{
	struct world *world = device->world;
	uint32_t id, request;

	if (device->packed) {
		uint16_t flags = world->ring[world->seen % SIZE].flags & (AVAIL | USED);

		if (flags != (world->seen & SIZE ? 0 : AVAIL | USED))
			return false;
		id = world->ring[world->seen % SIZE].id;
	} else {
		if (world->used[1] == world->seen)
			return false;
		memcpy(&id, &world->used[2 + world->seen % SIZE * 4], sizeof(id));
	}
	check(id < SIZE);
	request = world->request_of[id];
	check(request < REQUESTS);
	world->completions[request]++;
	world->request_of[id] = REQUESTS;
	world->free_descs += descs_of(device, request);
	world->seen += descs_of(device, request);
	return true;
}

/* ---- the device ---- */

static void
pop(struct device *device, uint32_t max)
{
	uint32_t i, got = virtq_pop(device->vq, device->slots + device->count, max);

	for (i = 0; i < got; i++) {
		const struct virtq_slot *slot = device->slots[device->count + i];
		uint32_t request = (uint8_t *)slot->iov[0].iov_base - device->world->data;

		check(request < REQUESTS);
		check(request >= device->next_request);
		check(device->world->completions[request] == 0);
		check(slot->readable_count == descs_of(device, request));
		device->next_request = request + 1;
	}
	device->count += got;
}

static void
push(struct device *device)
{
	uint32_t i;

	if (device->count == 0)
		return;
	i = pick(device, device->count);
	virtq_push(device->vq, device->slots[i], 0);
	device->slots[i] = device->slots[--device->count];
}

/* One thing that the driver or the device does; the device's under watch, if so wished. */
static void
step(struct device *device, bool watched)
{
	uint32_t action = pick(device, 5), n = 1 + pick(device, 3);

	if (action == 0) {
		while (n-- > 0)
			offer(device);
		return;
	}
	if (action == 1) {
		while (n-- > 0 && take_used(device)) {
		}
		return;
	}
	if (watched)
		watch(device->world);
	if (action == 2)
		pop(device, n < SIZE - device->count ? n : SIZE - device->count);
	else if (action == 3)
		push(device);
	else
		virtq_publish(device->vq);
	if (watched)
		stop_watching();
}

static bool
is_complete(const struct world *world)
{
	uint32_t i;

	for (i = 0; i < REQUESTS; i++)
		if (world->completions[i] == 0)
			return false;
	return true;
}

static void
run_to_the_end(struct device *device, bool watched)
{
	const struct world *world = device->world;
	uint32_t steps, i;

	for (steps = 0; !is_complete(world); steps++) {
		check(steps < 10000);
		step(device, watched);
		check(virtq_broken(device->vq) == NULL);
	}
	for (i = 0; i < REQUESTS; i++)
		check(world->completions[i] == 1);
	check(!take_used(device));
	check(virtq_in_flight(device->vq) == 0);
	check(virtq_waiting(device->vq) == 0);
}

/*
 * As a front-end does whose back-end has died: it only knows what is in the ring, or not even that.
 */
static void
start(struct device *device, bool watched)
{
	struct world *world = device->world;
	struct virtq_opts opts = {
		.size = SIZE,
		.packed = device->packed,
		.desc = world->desc,
		.avail = world->avail,
		.used = world->used,
		.mem = device->mem,
		.base = device->packed ? VIRTQ_PACKED_BASE_NEW : world->used[1],
		.inflight = world->inflight,
		.inflight_size = sizeof(world->inflight),
	};
	int rc;

	device->count = 0;
	device->next_request = 0;
	if (watched)
		watch(world);
	rc = virtq_create(&opts, &device->vq);
	if (watched)
		stop_watching();
	check(rc == 0);
}

static struct device *
make_device(bool packed)
{
	struct device *device = calloc(1, sizeof(*device));
	struct guest_mem_region region = {.size = sizeof(struct world)};
	uint32_t i;

	assert_non_null(device);
	device->packed = packed;
	device->world =
		mmap(NULL, WORLD_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(device->world, MAP_FAILED);
	region.hva = (uint8_t *)device->world;
	assert_int_equal(guest_mem_create(&region, 1, &device->mem), 0);
	device->world->free_descs = SIZE;
	for (i = 0; i < SIZE; i++)
		device->world->request_of[i] = REQUESTS;
	if (!packed) {
		device->world->next = FIRST_INDEX;
		device->world->seen = FIRST_INDEX;
		device->world->avail[1] = FIRST_INDEX;
		device->world->used[1] = FIRST_INDEX;
	}
	return device;
}

static void
free_device(struct device *device)
{
	virtq_destroy(device->vq);
	guest_mem_destroy(device->mem);
	munmap(device->world, WORLD_BYTES);
	free(device);
}

/* A device that begins in this world, and completes everything. */
static void
go_on(bool packed, const struct world *world, uint32_t seed, bool watched)
{
	struct device *device = make_device(packed);

	*device->world = *world;
	device->random = seed;
	start(device, watched);
	run_to_the_end(device, false);
	free_device(device);
}

/* The same from each of the steps of its repairs. */
static void
die_while_repairing(bool packed, const struct world *world)
{
	uint32_t first = snapshots.count, i;

	running_repair = 0;
	go_on(packed, world, 1, true);
	for (i = first; i < snapshots.count; i++) {
		running_repair = i - first + 1;
		go_on(packed, &snapshots.worlds[i], 7, false);
	}
	snapshots.count = first;
	running_repair = 0;
}

static void
run_seed(bool packed, unsigned int seed)
{
	struct device *device = make_device(packed);
	uint32_t count, i;

	running_seed = seed;
	snapshots.count = 0;
	device->random = seed * 0x9e3779b97f4a7c15ULL | 1;
	start(device, true);
	run_to_the_end(device, true);
	free_device(device);
	count = snapshots.count;
	/* All of the steps were seen: there are five and more for each request. */
	assert_in_range(count, 5 * REQUESTS, MAX_SNAPSHOTS / 2);
	for (i = 0; i < count; i++) {
		running_snapshot = i;
		go_on(packed, &snapshots.worlds[i], seed, false);
		if (seed == 1)
			die_while_repairing(packed, &snapshots.worlds[i]);
	}
}

static void
run_format(bool packed)
{
	struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, old_fault;
	struct sigaction trap = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, old_trap;
	unsigned int seed;

	snapshots.worlds = aligned_alloc(64, MAX_SNAPSHOTS * sizeof(*snapshots.worlds));
	assert_non_null(snapshots.worlds);
	assert_int_equal(sigaction(SIGSEGV, &fault, &old_fault), 0);
	assert_int_equal(sigaction(SIGTRAP, &trap, &old_trap), 0);
	for (seed = 1; seed <= SEEDS; seed++)
		run_seed(packed, seed);
	sigaction(SIGTRAP, &old_trap, NULL);
	sigaction(SIGSEGV, &old_fault, NULL);
	free(snapshots.worlds);
}

static void
test_split(void **state)
{
	(void)state;
	run_format(false);
}

static void
test_packed(void **state)
{
	(void)state;
	run_format(true);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_packed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
