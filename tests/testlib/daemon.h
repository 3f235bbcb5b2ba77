/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * daemon: a vhostd of one's own for an integration test, in a temporary folder, and its JSON-RPC.
 * The program is $VHOSTD_BIN, or the bin/vhostd that was built with the test. Functions return 0 or
 * a negative errno, unless they say otherwise; every wait has a deadline.
 */
#ifndef TESTLIB_DAEMON_H
#define TESTLIB_DAEMON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define DAEMON_PATH 160

struct daemon {
	char folder[DAEMON_PATH / 2]; /* sockets, state, log; and room for the test's own files */
	char rpc_socket[DAEMON_PATH];
	char log[DAEMON_PATH];
	pid_t pid; /* 0: does not run */
};

/*
 * Makes the folder and starts the daemon; waits until it answers. args: more options, ended by
 * NULL, or NULL.
 */
int daemon_start(struct daemon *daemon, const char *const *args);
/* Starts it again in the same folder, after daemon_stop() or daemon_kill(). */
int daemon_restart(struct daemon *daemon, const char *const *args);
/* The same without waiting until it answers. */
void daemon_launch(struct daemon *daemon, const char *const *args);
/*
 * SIGTERM; -EPROTO, and its log on stderr, when the exit status is not 0 (a sanitizer's, for one).
 */
int daemon_stop(struct daemon *daemon);
/* SIGKILL. */
void daemon_kill(struct daemon *daemon);
/* Stops it if it runs, and removes the folder. */
int daemon_end(struct daemon *daemon);

/*
 * The first time that it is not, unasked, stderr has how it ended, its log, and where its threads
 * were if there is a core file.
 */
bool daemon_is_alive(struct daemon *daemon);
/* Its log so far, on stderr. */
void daemon_print_log(const struct daemon *daemon);
/* The same, and what its queues, threads and block devices are about: before a wait is given up. */
void daemon_print_state(const struct daemon *daemon);
/* How often text is in the log so far. */
unsigned int daemon_log_count(const struct daemon *daemon, const char *text);

/* The socket of a controller, or another file in the folder. */
void daemon_path(const struct daemon *daemon, const char *name, char path[DAEMON_PATH]);

/*
 * Calls a method over a connection of its own. params (may be NULL) is taken. Returns the result,
 * the caller's, or NULL with the error's code in *code (may be NULL; -EIO when there is no answer).
 */
json_t *daemon_rpc(const struct daemon *daemon, const char *method, json_t *params, int *code);
/* The same for a method whose result does not matter: 0 or the error's code. */
int daemon_call(const struct daemon *daemon, const char *method, json_t *params);

/* The usual: a malloc, null or file (uring) block device, and a controller of it. */
int daemon_create_malloc(const struct daemon *daemon, const char *name, long blocks,
			 long block_size);
int daemon_create_null(const struct daemon *daemon, const char *name, long blocks, long block_size);
int daemon_create_file(const struct daemon *daemon, const char *name, long bytes);
int daemon_create_blk(const struct daemon *daemon, const char *name, const char *bdev,
		      bool read_only);

#endif
