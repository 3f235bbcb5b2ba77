/* SPDX-License-Identifier: BSD-3-Clause */
#include "iov.h"

#include <string.h>

bool
vhost_iov_take(struct iovec **iov, uint32_t *count, void *data, size_t size)
{
	uint8_t *to = data;

	while (size > 0) {
		struct iovec *first = *iov;
		size_t part;

		if (*count == 0)
			return false;
		part = first->iov_len < size ? first->iov_len : size;
		memcpy(to, first->iov_base, part);
		to += part;
		size -= part;
		first->iov_base = (uint8_t *)first->iov_base + part;
		first->iov_len -= part;
		if (first->iov_len == 0) {
			(*iov)++;
			(*count)--;
		}
	}
	return true;
}
