/* SPDX-License-Identifier: BSD-3-Clause */
/* Private to the library. */
#ifndef CLIENT_INTERNAL_H
#define CLIENT_INTERNAL_H

#include "client.h"

/* One message on any socket: the connection, or the back-end's request channel. */
int message_send(int fd, const struct client_message *message, int timeout_ms);
int message_receive(int fd, struct client_message *message, int timeout_ms);

extern const struct client_ring_ops split_ring_ops;
extern const struct client_ring_ops packed_ring_ops;

#endif
