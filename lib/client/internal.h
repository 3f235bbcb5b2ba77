/* SPDX-License-Identifier: BSD-3-Clause */
/* Private to the library. */
#ifndef CLIENT_INTERNAL_H
#define CLIENT_INTERNAL_H

#include "client.h"

/* One message on any socket: the connection, or the back-end's request channel. */
int message_send(int fd, const struct client_message *message, int timeout_ms);
int message_receive(int fd, struct client_message *message, int timeout_ms);

/* As many slots as the ring has entries, of that size; on an error *slots is NULL, or to be freed. */
int slots_create(struct client_slot **slots, struct client_ring *ring, uint32_t size);
/* One that is free, or NULL. */
struct client_slot *slots_find(struct client_slot *slots, const struct client_ring *ring);
/* 1 and the slot of a request that is done, which is free now; 0 when there is none. */
int slots_reap(struct client_slot *slots, struct client_ring *ring, struct client_slot **slot,
	       uint32_t *used_len);

/* Publishes and kicks. */
int ring_submit(struct client_ring *ring);

extern const struct client_ring_ops split_ring_ops;
extern const struct client_ring_ops packed_ring_ops;

#endif
