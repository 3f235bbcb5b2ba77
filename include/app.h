/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * app: brings the rooms up in order, keeps the state journal, and takes everything down again in
 * bounded time.
 */
#ifndef VHOSTD_APP_H
#define VHOSTD_APP_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "cpumask.h"
#include "errmsg.h"
#include "event.h"
#include "jsonrpc.h"

/*
 * A room with a start, a stop and a configuration. Started in the order of the list and stopped in
 * reverse; all three run on the app thread, in a coroutine [waits].
 */
struct app_opts;
struct app_subsystem {
	const char *name; /* what framework_get_subsystems lists */
	int (*start)(const struct app_opts *opts, struct errmsg *err); /* may be NULL */
	void (*stop)(void);      /* may be NULL; only called after a good start */
	json_t *(*config)(void); /* array of {method, params}; NULL: has none */
	const char *const
		*depends_on; /* names, NULL-terminated; NULL: none. For framework_get_subsystems. */
};

struct app_opts {
	const char *name;
	struct cpumask cpus;    /* empty: one CPU */
	unsigned int memory_mb; /* 0: default */
	bool hugepages;
	enum reactor_mode mode;
	const char *socket_dir;
	const char *rpc_socket;  /* NULL: no server */
	const char *config_file; /* loaded at start when there is no state yet; NULL: none */
	const char *state_file;  /* the journal; NULL: none */
	const char *metrics;     /* where they are served, as metrics.h says; NULL: nowhere */
	bool wait_for_rpc;       /* stay in the startup state until framework_start_init */
	/*
	 * To become before sockets listen; NULL: stay. The group may connect to the sockets in
	 * socket_dir, but not to the RPC socket.
	 */
	const char *user, *group;
	const struct app_subsystem *const *subsystems; /* NULL-terminated */
	/* NULL-terminated list of tables, each ended by a NULL schema */
	const struct rpc_method *const *methods;
};

/*
 * Runs the application: blocks until app_stop() (or SIGINT/SIGTERM), then takes everything down.
 * `ready(arg)` (may be NULL) runs on the app thread, in a coroutine, when all is up and sockets
 * listen. Main thread, once per process. Returns app_stop()'s rc, or the negative errno of a failed
 * start, with the reason in err. -ETIMEDOUT: something did not stop in time, and was left running
 * with what it uses; the process can only be ended, by _exit(). Where even that is not reached
 * within 30 s, or on a second SIGINT or SIGTERM, the process is ended from inside.
 *
 * The state: what RPC made is in opts->state_file (app_config_json()'s form) before the method
 * answers, and is made again at the next start, before a socket listens. An entry that fails then
 * is named in the log and kept in its place; it is tried again when app_retry_failed() says so, and
 * at the start after that. A damaged file is moved to
 * <file>.damaged-<n>, and no start succeeds before that has been looked after.
 */
int app_start(const struct app_opts *opts, void (*ready)(void *arg), void *arg, struct errmsg *err);

/* Any OS thread; the first call's rc is what app_start() returns. Never exits by itself. */
void app_stop(int rc);

struct thread *app_thread(void);
const struct app_opts *app_get_opts(void);

/*
 * Leaves the startup state: starts the subsystems and replays the state. App thread, in a coroutine
 * [waits]. 0, -EALREADY or what failed.
 */
int app_start_subsystems(struct errmsg *err);
/* [waits] until the subsystems are started. In a coroutine on the app thread. */
int app_wait_subsystems(void);

/*
 * {"version": 1, "subsystems": [{"subsystem": name, "config": [{method, params} …]} …]}. App
 * thread, in a coroutine. NULL: no memory.
 */
json_t *app_config_json(void);
/*
 * Forgets the entries by which `method` (not an old name of it) would have made or set `name`
 * (NULL: anything) and that failed when the state was replayed; deleting what could not be made, or
 * setting it anew, comes to this. Whether there was one; the next commit writes the state without
 * it. App thread.
 */
bool app_give_up(const char *method, const char *name);
/* The same for those whose parameters have all that `params` (an object, borrowed) has. */
bool app_give_up_where(const char *method, json_t *params);
/*
 * New array of the parameters of such entries, as app_give_up() has them. NULL: no memory. App
 * thread.
 */
json_t *app_failed_params(const char *method, const char *name);
/*
 * App thread: something has come to be that entries of the state may have missed when they failed:
 * they are tried again, soon. Does not wait.
 */
void app_retry_failed(void);
/* Whether the running coroutine replays the state, rather than do what a client asks for. */
bool app_is_replaying(void);
/*
 * {"state": "startup" (before framework_start_init), "starting", "running" or "stopping",
 * "state_file": path or null, "saved": whether the file has the configuration as it is, "failed":
 * [{"subsystem", "method", "name"} …], entries of the file that could not be replayed and are
 * kept}. App thread. NULL: no memory.
 */
json_t *app_state_json(void);
/*
 * Saves the configuration in the state, after a change that did not come by RPC. Waits until that
 * is done, for at most APP_SAVE_US; what goes wrong is in the log. Any OS thread that may block,
 * and that the app thread does not wait for.
 */
#define APP_SAVE_US 5000000
void app_save(void);
/*
 * The same on the app thread, in a coroutine [waits], for whoever may not go on when it fails: 0 or
 * a negative errno.
 */
int app_commit(struct errmsg *err);
/*
 * The same for whoever must not wait for the state to be replayed, which may have to wait for him:
 * -EAGAIN then, and when the daemon stops.
 */
int app_try_commit(struct errmsg *err);
/* One subsystem's part, or NULL when there is none of that name, or no memory. */
json_t *app_subsystem_config_json(const char *name);

#endif
