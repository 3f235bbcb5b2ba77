/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * state: the file of the state journal. Private to the room app. All calls block: on the work pool
 * or on an OS thread without a reactor, one at a time for one struct state_file.
 */
#ifndef VHOSTD_APP_STATE_H
#define VHOSTD_APP_STATE_H

#include <jansson.h>

#include "errmsg.h"

#define STATE_MAX_BYTES (64u << 20)
#define STATE_VERSION   1

struct state_file {
	char *path;  /* NULL: not open */
	int lock_fd; /* on <path>.lock, which stays: the lock counts, not the file */
};

/*
 * Locks the file of that name, which need not exist, against other daemons; of a symbolic link the
 * file that it points to, which must exist. 0, -EBUSY (another one has it), -ENOENT or -EACCES (its
 * folder), -ENOMEM, …
 */
int state_open(struct state_file *state, const char *path, struct errmsg *err);
void state_close(struct state_file *state);

/*
 * Reads a document and checks its shape: {"subsystems": [{"subsystem": name, "config": [{"method",
 * "params"} …]} …]}. 0 and a new reference, -ENOENT, -EBADMSG (not such a document; err says
 * where), -ENOTSUP (of a later version), or what reading it failed with.
 */
int document_read(const char *path, json_t **document, struct errmsg *err);

/*
 * Reads the journal. 0 with *document NULL when there is none yet. A damaged one is moved to
 * <path>.damaged-<n> (-EBADMSG), and as long as that is there and no good one is, this goes on to
 * fail: to start without it would be to lose disks silently.
 */
int state_read(const struct state_file *state, json_t **document, struct errmsg *err);

/* Replaces the journal in one step, durably: after a crash there is the old or the new one. */
int state_write(const struct state_file *state, const char *text, size_t length,
		struct errmsg *err);

#endif
