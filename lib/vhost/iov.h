/* SPDX-License-Identifier: BSD-3-Clause */
/* iov: taking a chain's buffers apart. Pure. Private to lib/vhost. */
#ifndef VHOSTD_VHOST_IOV_H
#define VHOSTD_VHOST_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * Takes size bytes from the front of iov[0 … *count), which is changed. False, with nothing to rely
 * on, if they have less.
 */
bool vhost_iov_take(struct iovec **iov, uint32_t *count, void *data, size_t size);

#endif
