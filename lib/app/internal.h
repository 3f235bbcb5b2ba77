/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the room app share. */
#ifndef VHOSTD_LIB_APP_INTERNAL_H
#define VHOSTD_LIB_APP_INTERNAL_H

#include <signal.h>
#include <stdbool.h>

#include "app.h"

#define SUBSYSTEM_STOP_SECONDS 10
#define STOP_SECONDS           30 /* for everything; after it the process is ended */

/* Whether app_stop() was called. Any OS thread. */
bool app_is_stopping(void);

/* ---- signals.c ---- */

/*
 * Blocks the signals that a daemon may get, so that OS threads made from now on do not; *before is
 * for pthread_sigmask().
 */
void signals_block(sigset_t *before);
/*
 * Starts the OS thread that waits for SIGINT and SIGTERM: the first one calls app_stop(0), the next
 * one ends the process.
 */
int signals_start(void);
/*
 * Stopping has begun: the process will be ended after STOP_SECONDS. Between signals_start() and
 * signals_end(), any OS thread.
 */
void signals_watch_stop(void);
void signals_end(void);

/* ---- identity.c ---- */

/*
 * Makes the folders that opts name and that are missing, and becomes opts->user and opts->group.
 * Main thread.
 */
int identity_assume(const struct app_opts *opts, struct errmsg *err);

/* ---- limits.c ---- */

/*
 * Raises the soft limit of open files, as far as the hard one allows: each queue of a guest takes
 * three, and the usual limit is 1024.
 */
void limits_raise(void);

#endif
