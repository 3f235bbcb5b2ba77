/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * errmsg: the sentence that goes with a negative errno up to the person who can act on it (an RPC
 * answer, the last line of a failed start). It names the object and says what to do. Any thread.
 */
#ifndef VHOSTD_ERRMSG_H
#define VHOSTD_ERRMSG_H

#define ERRMSG_MAX 512

struct errmsg {
	char text[ERRMSG_MAX]; /* UTF-8, no trailing newline; empty: nothing was said */
};

/*
 * Formats into *err (err may be NULL) and returns rc, so that `return err_set(err, -EBUSY, ...)`
 * works.
 */
int err_set(struct errmsg *err, int rc, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
