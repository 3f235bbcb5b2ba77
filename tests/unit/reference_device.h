/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The device side of a virtqueue, split or packed, for tests: written from virtio 1.2 §2.7 and
 * §2.8 alone, slow and without state that it could derive, so that it can be the judge of faster
 * code. It asserts whatever a driver must not do. One thread per device.
 */
#ifndef REFERENCE_DEVICE_H
#define REFERENCE_DEVICE_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "client.h"

#define REFERENCE_SEGMENTS 64

struct reference_segment {
	uint64_t gpa;
	uint32_t len;
	bool device_writes;
};

struct reference_chain {
	uint16_t id;          /* split: head descriptor; packed: buffer id */
	uint16_t descriptors; /* of the ring */
	unsigned int count;
	struct reference_segment segments[REFERENCE_SEGMENTS];
};

/* When the device wants to hear of new buffers. */
enum reference_kicks { KICKS_NEVER, KICKS_ALWAYS, KICKS_AT_NEXT };

struct reference_device {
	const struct client_memory *memory;
	uint16_t size;
	bool packed, event_idx;

	/* the areas */
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	struct vring_packed_desc *ring;
	struct vring_packed_desc_event *driver_event, *device_event;

	/* split: free-running indices; packed: positions */
	uint16_t avail_index, used_index;
	bool avail_wrap, used_wrap;
	uint16_t uncalled; /* used entries (packed: positions) since the last call decision */
};

/* From the beginning of a ring that was just reset. */
static inline void
reference_init(struct reference_device *device, const struct client_memory *memory,
	       const uint64_t area_gpas[3], uint16_t size, bool packed, bool event_idx)
{
	memset(device, 0, sizeof(*device));
	device->memory = memory;
	device->size = size;
	device->packed = packed;
	device->event_idx = event_idx;
	device->avail_wrap = device->used_wrap = true;
	if (packed) {
		device->ring = client_memory_ptr(memory, area_gpas[0], 16 * size);
		device->driver_event = client_memory_ptr(memory, area_gpas[1], 4);
		device->device_event = client_memory_ptr(memory, area_gpas[2], 4);
	} else {
		device->desc = client_memory_ptr(memory, area_gpas[0], 16 * size);
		device->avail = client_memory_ptr(memory, area_gpas[1], 6 + 2 * size);
		device->used = client_memory_ptr(memory, area_gpas[2], 6 + 8 * size);
	}
}

static inline uint16_t
reference_load(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static inline void
reference_store(uint16_t *p, uint16_t value)
{
	__atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}

static inline void
reference_append(struct reference_chain *chain, uint64_t gpa, uint32_t len, uint16_t flags)
{
	assert_in_range(chain->count, 0, REFERENCE_SEGMENTS - 1);
	chain->segments[chain->count++] =
		(struct reference_segment){gpa, len, !!(flags & VRING_DESC_F_WRITE)};
}

/* ---- split ---- */

static inline void
reference_split_walk(const struct vring_desc *table, unsigned int entries, uint16_t index,
		     struct reference_chain *chain)
{
	unsigned int seen = 0;

	for (;;) {
		assert_in_range(index, 0, entries - 1);
		assert_in_range(++seen, 1, entries);
		assert_false(table[index].flags & VRING_DESC_F_INDIRECT);
		reference_append(chain, table[index].addr, table[index].len, table[index].flags);
		if (!(table[index].flags & VRING_DESC_F_NEXT))
			return;
		index = table[index].next;
	}
}

static inline bool
reference_split_take(struct reference_device *device, struct reference_chain *chain)
{
	const struct vring_desc *head, *table;

	if (reference_load(&device->avail->idx) == device->avail_index)
		return false;
	chain->id = device->avail->ring[device->avail_index % device->size];
	device->avail_index++;
	assert_in_range(chain->id, 0, device->size - 1);
	head = &device->desc[chain->id];
	if (head->flags & VRING_DESC_F_INDIRECT) {
		assert_int_equal(head->flags, VRING_DESC_F_INDIRECT);
		assert_int_equal(head->len % 16, 0);
		table = client_memory_ptr(device->memory, head->addr, head->len);
		assert_non_null(table);
		reference_split_walk(table, head->len / 16, 0, chain);
		chain->descriptors = 1;
	} else {
		reference_split_walk(device->desc, device->size, chain->id, chain);
		chain->descriptors = chain->count;
	}
	return true;
}

static inline void
reference_split_use(struct reference_device *device, const struct reference_chain *chain,
		    uint32_t len)
{
	struct vring_used_elem *elem = &device->used->ring[device->used_index % device->size];

	elem->id = chain->id;
	elem->len = len;
	device->used_index++;
	device->uncalled++;
	reference_store(&device->used->idx, device->used_index);
}

static inline bool
reference_split_wants_call(const struct reference_device *device)
{
	uint16_t used_event = reference_load(&device->avail->ring[device->size]);
	uint16_t i;

	if (!device->event_idx)
		return !(reference_load(&device->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	for (i = 1; i <= device->uncalled; i++)
		if ((uint16_t)(device->used_index - i) == used_event)
			return true;
	return false;
}

static inline void
reference_split_set_kicks(struct reference_device *device, enum reference_kicks kicks)
{
	uint16_t *avail_event = (uint16_t *)&device->used->ring[device->size];

	if (device->event_idx)
		reference_store(avail_event, device->avail_index - (kicks == KICKS_NEVER));
	else
		reference_store(&device->used->flags,
				kicks == KICKS_NEVER ? VRING_USED_F_NO_NOTIFY : 0);
}

/* ---- packed ---- */

static inline void
reference_step(const struct reference_device *device, uint16_t *index, bool *wrap)
{
	if (++*index == device->size) {
		*index = 0;
		*wrap = !*wrap;
	}
}

static inline void
reference_packed_table(const struct reference_device *device, uint64_t gpa, uint32_t len,
		       struct reference_chain *chain)
{
	const struct vring_packed_desc *table = client_memory_ptr(device->memory, gpa, len);
	uint32_t i;

	assert_non_null(table);
	assert_true(len > 0 && len % 16 == 0);
	for (i = 0; i < len / 16; i++) {
		assert_int_equal(table[i].flags & ~VRING_DESC_F_WRITE, 0);
		reference_append(chain, table[i].addr, table[i].len, table[i].flags);
	}
}

static inline bool
reference_packed_take(struct reference_device *device, struct reference_chain *chain)
{
	const struct vring_packed_desc *desc;
	uint16_t flags;

	do {
		desc = &device->ring[device->avail_index];
		flags = reference_load(&desc->flags);
		if (!!(flags & 1 << 7) != device->avail_wrap ||
		    !!(flags & 1 << 15) == device->avail_wrap) {
			/* Within a chain every descriptor must be there. */
			assert_int_equal(chain->descriptors, 0);
			return false;
		}
		assert_int_equal(flags & ~(1 << 7 | 1 << 15 | 7), 0);
		if (flags & VRING_DESC_F_INDIRECT) {
			assert_int_equal(flags & (VRING_DESC_F_NEXT | VRING_DESC_F_WRITE), 0);
			assert_int_equal(chain->descriptors, 0);
			reference_packed_table(device, desc->addr, desc->len, chain);
		} else {
			reference_append(chain, desc->addr, desc->len, flags);
		}
		chain->id = desc->id;
		chain->descriptors++;
		reference_step(device, &device->avail_index, &device->avail_wrap);
	} while (flags & VRING_DESC_F_NEXT);
	assert_in_range(chain->id, 0, device->size - 1);
	return true;
}

static inline void
reference_packed_use(struct reference_device *device, const struct reference_chain *chain,
		     uint32_t len)
{
	struct vring_packed_desc *desc = &device->ring[device->used_index];
	uint16_t flags = device->used_wrap ? 1 << 7 | 1 << 15 : 0;
	uint16_t i;

	desc->id = chain->id;
	desc->len = len > 0 ? len : 0xbad;
	reference_store(&desc->flags, flags | (len > 0 ? VRING_DESC_F_WRITE : 0));
	for (i = 0; i < chain->descriptors; i++)
		reference_step(device, &device->used_index, &device->used_wrap);
	device->uncalled += chain->descriptors;
}

/* Whether a position with its wrap counter is one of the last count before index. */
static inline bool
reference_was_passed(const struct reference_device *device, uint16_t off_wrap, uint16_t index,
		     bool wrap, uint16_t count)
{
	while (count-- > 0) {
		if (index == 0) {
			index = device->size;
			wrap = !wrap;
		}
		index--;
		if ((off_wrap & 0x7fff) == index && off_wrap >> 15 == wrap)
			return true;
	}
	return false;
}

static inline bool
reference_packed_wants_call(const struct reference_device *device)
{
	uint16_t flags = reference_load(&device->driver_event->flags);
	uint16_t off_wrap = reference_load(&device->driver_event->off_wrap);

	if (flags != VRING_PACKED_EVENT_FLAG_DESC) {
		assert_in_range(flags, 0, 1);
		return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
	}
	assert_true(device->event_idx);
	assert_in_range(off_wrap & 0x7fff, 0, device->size - 1);
	return reference_was_passed(device, off_wrap, device->used_index, device->used_wrap,
				    device->uncalled);
}

static inline void
reference_packed_set_kicks(struct reference_device *device, enum reference_kicks kicks)
{
	static const uint16_t flags[] = {
		[KICKS_NEVER] = VRING_PACKED_EVENT_FLAG_DISABLE,
		[KICKS_ALWAYS] = VRING_PACKED_EVENT_FLAG_ENABLE,
		[KICKS_AT_NEXT] = VRING_PACKED_EVENT_FLAG_DESC,
	};

	if (kicks == KICKS_AT_NEXT && !device->event_idx)
		kicks = KICKS_ALWAYS;
	if (kicks == KICKS_AT_NEXT)
		reference_store(&device->device_event->off_wrap,
				device->avail_index | device->avail_wrap << 15);
	reference_store(&device->device_event->flags, flags[kicks]);
}

/* ---- either ---- */

/* Takes the next chain, if there is one. */
static inline bool
reference_take(struct reference_device *device, struct reference_chain *chain)
{
	memset(chain, 0, sizeof(*chain));
	return device->packed ? reference_packed_take(device, chain)
			      : reference_split_take(device, chain);
}

/* Gives a chain back; len is what was written to it. */
static inline void
reference_use(struct reference_device *device, const struct reference_chain *chain, uint32_t len)
{
	if (device->packed)
		reference_packed_use(device, chain, len);
	else
		reference_split_use(device, chain, len);
}

/* Whether the driver must be called for what was used since the last time this was asked. */
static inline bool
reference_wants_call(struct reference_device *device)
{
	bool wants = device->packed ? reference_packed_wants_call(device)
				    : reference_split_wants_call(device);

	device->uncalled = 0;
	return wants;
}

/* To be followed by one more reference_take() before the device sleeps. */
static inline void
reference_set_kicks(struct reference_device *device, enum reference_kicks kicks)
{
	if (device->packed)
		reference_packed_set_kicks(device, kicks);
	else
		reference_split_set_kicks(device, kicks);
}

#endif
