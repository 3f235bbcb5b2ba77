/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * config: the configuration as a document, from the subsystems to the journal and back. Private to
 * the room app. All calls: app thread, in a coroutine [waits].
 */
#ifndef VHOSTD_APP_CONFIG_H
#define VHOSTD_APP_CONFIG_H

#include "app.h"
#include "errmsg.h"

/*
 * Opens the journal and reads what config_replay() will replay: the journal, or else
 * opts->config_file. opts must outlive the configuration. 0, or the errors of state.h: then nothing
 * is open.
 */
int config_open(const struct app_opts *opts, struct errmsg *err);

/*
 * Calls the methods that were read, in their order. One that fails is named in the log and kept: it
 * stays in the journal, in its place, and is tried again later and at the next start, so that a
 * disk that is missing once is not forgotten. It is given up when something of the same name has
 * been made meanwhile. Stops early when app_stop() was called. Returns how many failed.
 */
unsigned int config_replay(void);

/*
 * Writes the journal if the configuration is not what was written last. 0 or a negative errno;
 * without a journal 0. -ECANCELED after config_end().
 */
int config_commit(struct errmsg *err);

/* What app_state_json() says of the state's file; does not wait. NULL: no memory. */
json_t *config_state_json(void);

/* Forgets everything and gives the journal free. Also after a failed config_open(). */
void config_close(void);

/*
 * Failed entries are to be tried again: now, or when config_retry() is called. Does not wait.
 * Then the journal is written, if that has made something.
 */
void config_want_retry(bool now);
void config_retry(void);
/*
 * Until that has ended; app_is_stopping(). From now on nothing is written: subsystems that have
 * begun to stop do not tell the configuration any more.
 */
void config_end(void);

#endif
