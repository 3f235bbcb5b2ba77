/* SPDX-License-Identifier: BSD-3-Clause */
/* What requests keep in their ring's memory: a slot each, for as many as the ring has entries. */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

int
slots_create(struct client_slot **slots, struct client_ring *ring, uint32_t size)
{
	int rc = 0;

	*slots = calloc(ring->size, sizeof(**slots));
	if (!*slots)
		return -ENOMEM;
	for (uint16_t i = 0; i < ring->size && rc == 0; i++) {
		struct client_slot *slot = &(*slots)[i];

		rc = client_memory_alloc(ring->memory, size, 64, &slot->gpa);
		if (rc == 0)
			slot->memory = client_memory_ptr(ring->memory, slot->gpa, size);
	}
	return rc;
}

struct client_slot *
slots_find(struct client_slot *slots, const struct client_ring *ring)
{
	for (uint16_t i = 0; i < ring->size; i++)
		if (!slots[i].busy)
			return &slots[i];
	return NULL;
}

int
slots_reap(struct client_slot *slots, struct client_ring *ring, struct client_slot **slot,
	   uint32_t *used_len)
{
	struct client_used used;
	int rc = client_ring_pop(ring, &used);

	if (rc <= 0)
		return rc;
	*slot = &slots[used.tag];
	(*slot)->busy = false;
	*used_len = used.len;
	return 1;
}

int
ring_submit(struct client_ring *ring)
{
	client_ring_publish(ring);
	return client_ring_kick(ring);
}
