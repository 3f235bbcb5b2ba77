/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sg_socket: SCSI commands over a socket, one after the other. The one side is sg_socket.so, which
 * makes a program believe that the socket is a /dev/sg, the other one a test with a SCSI target.
 */
#ifndef VHOSTD_SG_SOCKET_H
#define VHOSTD_SG_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

/* Followed by data-out. */
struct sg_command {
	uint8_t cdb[32];
	uint32_t cdb_length;
	uint32_t out_bytes;
	uint32_t in_bytes;
};

/* Followed by data-in. */
struct sg_result {
	uint8_t status;
	bool failed; /* it has no status */
	uint8_t sense_length;
	uint8_t sense[64];
	uint32_t transferred_in;
	uint32_t transferred_out;
};

static inline bool
sg_send(int fd, const void *data, size_t size)
{
	const uint8_t *at = data;

	while (size > 0) {
		ssize_t sent = write(fd, at, size);

		if (sent <= 0)
			return false;
		at += sent;
		size -= (size_t)sent;
	}
	return true;
}

static inline bool
sg_receive(int fd, void *data, size_t size)
{
	uint8_t *at = data;

	while (size > 0) {
		ssize_t received = read(fd, at, size);

		if (received <= 0)
			return false;
		at += received;
		size -= (size_t)received;
	}
	return true;
}

#endif
