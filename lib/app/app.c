/* SPDX-License-Identifier: BSD-3-Clause */
/* Start and stop, in order. */
#include "app.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "config.h"
#include "coroutine.h"
#include "env.h"
#include "internal.h"
#include "log.h"
#include "work.h"

enum phase {
	PHASE_STARTUP,  /* no subsystem runs */
	PHASE_STARTING, /* they are being started, and the state is replayed */
	PHASE_RUNNING,
	PHASE_STOPPING,
};

struct waiter {
	struct waiter *next;
	struct completion *done;
};

static struct {
	/* set once, by app_start() */
	const struct app_opts *opts;
	struct thread *thread;
	struct completion *stop; /* signalled by the first app_stop() */
	void (*ready)(void *arg);
	void *ready_arg;
	struct errmsg *err;

	/* any OS thread */
	_Atomic bool stopping;

	/* app thread only */
	enum phase phase;
	size_t started;         /* subsystems, from the first */
	unsigned int failed;    /* entries of the state */
	struct waiter *waiters; /* for the end of the start */
	bool hung;              /* a subsystem did not stop */
} app;

struct thread *
app_thread(void)
{
	return app.thread;
}

const struct app_opts *
app_get_opts(void)
{
	return app.opts;
}

bool
app_is_stopping(void)
{
	return atomic_load(&app.stopping);
}

json_t *
app_state_json(void)
{
	static const char *const names[] = {
		[PHASE_STARTUP] = "startup",
		[PHASE_STARTING] = "starting",
		[PHASE_RUNNING] = "running",
		[PHASE_STOPPING] = "stopping",
	};
	enum phase phase = app_is_stopping() ? PHASE_STOPPING : app.phase;
	json_t *object = json_pack("{s:s}", "state", names[phase]);
	json_t *journal = config_state_json();

	json_object_update(object, journal);
	json_decref(journal);
	return object;
}

void
app_stop(int rc)
{
	if (atomic_exchange(&app.stopping, true))
		return;
	signals_watch_stop();
	completion_signal(app.stop, rc);
}

/* ---- subsystems ---- */

struct stop_job {
	const struct app_subsystem *subsystem;
	struct completion *done;
};

static void
run_stop(void *arg)
{
	struct stop_job *job = arg;

	job->subsystem->stop();
	completion_signal(job->done, 0);
	free(job);
}

/* In a coroutine of its own, so that one that hangs can be left behind. */
static int
stop_subsystem(const struct app_subsystem *subsystem)
{
	struct stop_job *job = malloc(sizeof(*job));
	struct completion *done = completion_create();
	int rc = -ENOMEM;

	if (job != NULL && done != NULL) {
		*job = (struct stop_job){subsystem, done};
		rc = coroutine_start(app.thread, subsystem->name, run_stop, job);
	}
	if (rc != 0) {
		completion_drop(done);
		free(job);
		return rc;
	}
	rc = completion_wait(done, SUBSYSTEM_STOP_SECONDS * 1000000ull);
	completion_put(done);
	return rc;
}

static void
stop_subsystems(void)
{
	while (app.started > 0 && !app.hung) {
		const struct app_subsystem *subsystem = app.opts->subsystems[--app.started];
		int rc = subsystem->stop != NULL ? stop_subsystem(subsystem) : 0;

		if (rc == 0)
			continue;
		log_err("subsystem %s does not stop (%s): ending without it", subsystem->name,
			strerror(-rc));
		app.hung = true; /* what it uses must not be taken from under it */
	}
}

static int
start_subsystems(struct errmsg *err)
{
	const struct app_subsystem *subsystem;

	while ((subsystem = app.opts->subsystems[app.started]) != NULL) {
		int rc = subsystem->start != NULL ? subsystem->start(app.opts, err) : 0;

		if (rc != 0 && err->text[0] == '\0')
			err_set(err, rc, "subsystem %s: %s", subsystem->name, strerror(-rc));
		if (rc != 0)
			return rc;
		app.started++;
		if (app_is_stopping())
			return err_set(err, -ECANCELED, "stopped while starting");
	}
	return 0;
}

/* ---- the end of the start ---- */

static void
set_phase(enum phase phase)
{
	app.phase = phase;
	if (phase == PHASE_STARTING)
		return;
	while (app.waiters != NULL) {
		struct waiter *waiter = app.waiters;

		app.waiters = waiter->next;
		completion_signal(waiter->done, 0);
	}
}

/* [waits] for the next phase that lasts. */
static int
wait_for_phase(void)
{
	struct waiter waiter = {.next = app.waiters, .done = completion_create()};
	struct waiter **link;
	int rc;

	if (waiter.done == NULL)
		return -ENOMEM;
	app.waiters = &waiter;
	rc = completion_wait(waiter.done, WAIT_FOREVER);
	for (link = &app.waiters; *link != NULL; link = &(*link)->next) {
		if (*link != &waiter)
			continue;
		*link = waiter.next; /* still in the list: it was cancelled */
		completion_signal(waiter.done, rc);
		break;
	}
	completion_put(waiter.done);
	return rc;
}

int
app_wait_subsystems(void)
{
	int rc = 0;

	while (rc == 0 && (app.phase == PHASE_STARTUP || app.phase == PHASE_STARTING))
		rc = wait_for_phase();
	return rc == 0 && app.phase == PHASE_STOPPING ? -ECANCELED : rc;
}

/* ---- start ---- */

/*
 * What jsonrpc calls before a method that changes the configuration answers. A change while the
 * state is replayed (framework_start_init runs, and this client did not wait for it) is written
 * with the rest at the end; after subsystems began to stop they do not tell the configuration any
 * more.
 */
int
app_commit(struct errmsg *err)
{
	int rc = 0;

	if (app.phase == PHASE_STARTUP)
		return 0; /* nothing is replayed yet; it is written when that is done */
	if (app.phase == PHASE_STARTING)
		rc = app_wait_subsystems();
	if (rc == 0 && app.phase != PHASE_RUNNING)
		rc = -ECANCELED;
	if (rc != 0)
		return err_set(err, rc, "the daemon is stopping; the change is not in the state");
	return config_commit(err);
}

int
app_try_commit(struct errmsg *err)
{
	int rc = -EAGAIN;

	if (app.phase != PHASE_STARTING)
		rc = app_commit(err);
	return rc == -ECANCELED ? -EAGAIN : rc;
}

static void
save(void *arg)
{
	struct errmsg err = {""};

	completion_signal(arg, app_commit(&err));
}

void
app_save(void)
{
	struct completion *done = completion_create();
	int rc = done != NULL ? 0 : -ENOMEM;

	if (app_is_stopping())
		rc = -ECANCELED;
	if (rc == 0)
		rc = coroutine_start(app.thread, "app_save", save, done);
	if (rc != 0) {
		completion_drop(done);
	} else {
		rc = completion_wait(done, APP_SAVE_US);
		completion_put(done);
	}
	if (rc != 0)
		log_warn("state: a guest's change holds only until the daemon ends: %s",
			 strerror(-rc));
}

static int
start_server(struct errmsg *err)
{
	struct jsonrpc_server_opts server = {
		.path = app.opts->rpc_socket,
		.mode = 0600,
		.thread = app.thread,
		.commit = app_commit,
	};

	return server.path != NULL ? jsonrpc_server_start(&server, err) : 0;
}

/* What the state says comes before the option. */
static const char *
mode_of_reactors(void)
{
	struct reactor_info first, info;

	reactor_get_info(env_core_first(), &first);
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core)) {
		if (reactor_get_info(core, &info) == 0 && info.mode != first.mode)
			return "not the same on all";
	}
	return reactor_mode_name(first.mode);
}

static void
say_ready(void)
{
	const struct app_opts *opts = app.opts;
	char cpus[CPUMASK_TEXT_MAX];
	struct cpumask mask = {{0}};

	if (app_is_stopping())
		return; /* while it started */
	for (uint32_t core = env_core_first(); core != ENV_NO_CORE; core = env_core_next(core))
		cpumask_set(&mask, core);
	if (app.failed > 0)
		log_warn("state: %u entries could not be replayed and are kept", app.failed);
	log_notice("%s " VHOSTD_VERSION
		   " ready: CPUs %s, mode %s, sockets in %s, RPC on %s, state %s",
		   opts->name, cpumask_format(&mask, cpus), mode_of_reactors(), opts->socket_dir,
		   opts->rpc_socket != NULL ? opts->rpc_socket : "no socket",
		   opts->state_file != NULL ? opts->state_file : "not kept");
	sd_notifyf(0, "READY=1\nSTATUS=Ready; %u entries of the configuration failed", app.failed);
	if (app.ready != NULL)
		app.ready(app.ready_arg);
}

int
app_start_subsystems(struct errmsg *err)
{
	int rc;

	if (app.phase != PHASE_STARTUP)
		return err_set(err, -EALREADY, "the subsystems are started already");
	set_phase(PHASE_STARTING);
	rc = start_subsystems(err);
	if (rc != 0) {
		stop_subsystems();
		set_phase(PHASE_STARTUP);
		return rc;
	}
	jsonrpc_set_state(RPC_RUNTIME);
	app.failed = config_replay();
	/* Not written is in the log, and no reason to keep guests from their disks. */
	config_commit(err);
	err_set(err, 0, "%s", "");
	set_phase(PHASE_RUNNING);
	config_retry();
	if (app.opts->wait_for_rpc)
		say_ready();
	return 0;
}

void
app_retry_failed(void)
{
	if (app.phase == PHASE_STARTING || app.phase == PHASE_RUNNING)
		config_want_retry(app.phase == PHASE_RUNNING);
}

static int
register_methods(struct errmsg *err)
{
	const struct rpc_method *const *table = app.opts->methods;

	for (; table != NULL && *table != NULL; table++) {
		size_t count = 0;
		int rc;

		while ((*table)[count].schema != NULL)
			count++;
		rc = jsonrpc_register(*table, count);
		if (rc != 0)
			return err_set(err, rc, "RPC methods: %s", strerror(-rc));
	}
	return 0;
}

static int
bring_up(struct errmsg *err)
{
	int rc = register_methods(err);

	if (rc == 0)
		rc = config_open(app.opts, err);
	if (rc != 0)
		return rc;
	if (app.opts->wait_for_rpc) {
		rc = start_server(err);
		if (rc != 0)
			return rc;
		log_notice("waiting for framework_start_init on %s", app.opts->rpc_socket);
		sd_notify(0, "READY=1\nSTATUS=Waiting for framework_start_init");
		return 0;
	}
	rc = app_start_subsystems(err);
	if (rc == 0)
		rc = start_server(err);
	if (rc == 0)
		say_ready();
	return rc;
}

/* ---- the life of the app thread ---- */

static void
take_down(void)
{
	sd_notify(0, "STOPPING=1");
	jsonrpc_server_stop();
	/* In a client's framework_start_init, which sees that it shall stop. */
	while (app.phase == PHASE_STARTING)
		wait_for_phase();
	set_phase(PHASE_STOPPING);
	config_end();
	stop_subsystems();
	if (!app.hung)
		config_close();
}

/* A coroutine on the app thread. */
static void
app_main(void *arg)
{
	int *rc = arg;

	*rc = bring_up(app.err);
	if (*rc != 0)
		app_stop(*rc);
	*rc = completion_wait(app.stop, WAIT_FOREVER);
	take_down();
	reactors_stop();
}

static int
start_app_thread(int *app_rc, struct errmsg *err)
{
	int rc;

	app.thread = thread_create("app", NULL);
	if (app.thread == NULL)
		return err_set(err, -errno, "app thread: %s", strerror(errno));
	rc = coroutine_start(app.thread, "app", app_main, app_rc);
	return rc == 0 ? 0 : err_set(err, rc, "app thread: %s", strerror(-rc));
}

/* All that happens on reactors. */
static int
run(struct errmsg *err)
{
	int app_rc = 0;
	int rc, start_rc;

	rc = reactors_init(app.opts->mode, err);
	if (rc != 0)
		return rc;
	start_rc = start_app_thread(&app_rc, err);
	if (start_rc != 0)
		reactors_stop();
	rc = reactors_run();
	app.thread = NULL;
	if (rc == -ETIMEDOUT || app.hung) {
		app.hung = true;
		return err_set(err, -ETIMEDOUT,
			       "not everything could be stopped in time; see the log");
	}
	reactors_fini();
	if (start_rc != 0)
		return start_rc;
	return rc == 0 ? app_rc : err_set(err, rc, "reactors: %s", strerror(-rc));
}

/* With the EAL there: its threads have inherited what main thread's are. */
static int
run_with_pool(struct errmsg *err)
{
	struct work_pool_opts pool = {.affinity = env_housekeeping_cpus()};
	int rc;

	limits_raise();
	rc = identity_assume(app.opts, err);
	if (rc != 0)
		return rc;
	rc = signals_start();
	if (rc != 0)
		return err_set(err, rc, "signals: %s", strerror(-rc));
	rc = work_pool_start(&pool);
	if (rc != 0) {
		err_set(err, rc, "work pool: %s", strerror(-rc));
	} else {
		rc = run(err);
		if (!app.hung)
			work_pool_stop();
	}
	app_stop(rc); /* nobody will do so any more */
	completion_wait(app.stop, WAIT_FOREVER);
	completion_put(app.stop);
	signals_end();
	return rc;
}

int
app_start(const struct app_opts *opts, void (*ready)(void *arg), void *arg, struct errmsg *err)
{
	struct env_opts env = {
		.name = opts->name,
		.cpus = opts->cpus,
		.memory_mb = opts->memory_mb,
		.hugepages = opts->hugepages,
	};
	sigset_t before;
	int rc;

	app.opts = opts;
	app.ready = ready;
	app.ready_arg = arg;
	app.err = err;
	app.stop = completion_create();
	if (app.stop == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	signals_block(&before);
	rc = env_init(&env, err);
	if (rc == 0) {
		rc = run_with_pool(err);
		if (!app.hung)
			env_fini();
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}
