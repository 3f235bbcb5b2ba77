/* SPDX-License-Identifier: BSD-3-Clause */
/* iovecs: memory in pieces. Any thread; the memory is the caller's. */
#ifndef VHOSTD_IOVECS_H
#define VHOSTD_IOVECS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

/*
 * Copies length bytes from memory to iovecs, from offset on (to), or from there to memory: what
 * there is. How many.
 */
static inline size_t
iovecs_copy(const struct iovec *iov, uint32_t count, uint64_t offset, void *memory, size_t length,
	    bool to)
{
	size_t copied = 0;

	for (uint32_t i = 0; i < count && copied < length; i++) {
		uint8_t *own = (uint8_t *)memory + copied, *other;
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		other = (uint8_t *)iov[i].iov_base + offset;
		part = iov[i].iov_len - offset;
		if (part > length - copied)
			part = length - copied;
		memcpy(to ? other : own, to ? own : other, part);
		copied += part;
		offset = 0;
	}
	return copied;
}

/* Cuts them to length bytes, of which they have at least as many: how many are left. */
static inline uint32_t
iovecs_cut(struct iovec *iov, uint64_t length)
{
	uint32_t count = 0;

	while (length > 0) {
		if (iov[count].iov_len > length)
			iov[count].iov_len = length;
		length -= iov[count++].iov_len;
	}
	return count;
}

#endif
