/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * app_rig: a daemon with a toy subsystem, whose "things" have a name and nothing else. Each life is
 * a process of its own; what it wants to say goes through its exit status and its log.
 */
#ifndef VHOSTD_APP_RIG_H
#define VHOSTD_APP_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "app.h"
#include "coroutine.h"
#include "log.h"
#include "waiting.h"

#define EXIT_CHECK  90           /* a CHECK() in a child failed */
#define EXIT_RC(rc) (100 - (rc)) /* app_start() returned a negative errno */

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s\n", __func__, __LINE__, #condition);            \
			_exit(EXIT_CHECK);                                                         \
		}                                                                                  \
	} while (0)

static char folder[64];

/* ---- files ---- */

static const char *
in_folder(const char *name)
{
	static char paths[4][PATH_MAX];
	static unsigned int next;
	char *path = paths[next++ % 4];

	snprintf(path, PATH_MAX, "%s/%s", folder, name);
	return path;
}

static inline bool
exists(const char *name)
{
	return access(in_folder(name), F_OK) == 0;
}

static inline void
put(const char *name, const char *text)
{
	FILE *file = fopen(in_folder(name), "w");

	CHECK(file != NULL);
	fputs(text, file);
	fclose(file);
}

/*
 * The content; empty when there is none. In one of four buffers, and not on the heap, for which a
 * forked child would have to answer.
 */
static inline const char *
get(const char *name)
{
	static char texts[4][1 << 16];
	static unsigned int next;
	char *text = texts[next++ % 4];
	FILE *file = fopen(in_folder(name), "r");

	text[0] = '\0';
	if (file == NULL)
		return text;
	text[fread(text, 1, sizeof(texts[0]) - 1, file)] = '\0';
	fclose(file);
	return text;
}

static inline bool
has(const char *name, const char *words)
{
	return strstr(get(name), words) != NULL;
}

static inline int
make_folder(const char *tmp)
{
	snprintf(folder, sizeof(folder), "%s/app-XXXXXX", tmp);
	if (mkdtemp(folder) == NULL)
		return -1;
	return chmod(folder, 0755);
}

static inline int
setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	return make_folder(tmp != NULL && strlen(tmp) < 40 ? tmp
							   : "/tmp"); /* socket paths are short */
}

/* TMPDIR may be in a folder that other users may not enter. */
static inline int
setup_for_all_users(void **state)
{
	(void)state;
	return make_folder("/tmp");
}

static inline int
remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

/* Children that were not waited for. */
static pid_t lives[4];

static inline void
replace_life(pid_t old, pid_t new)
{
	for (size_t i = 0; i < sizeof(lives) / sizeof(lives[0]); i++) {
		if (lives[i] == old) {
			lives[i] = new;
			return;
		}
	}
}

/* A test that failed leaves no daemon behind. */
static inline int
teardown(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(lives) / sizeof(lives[0]); i++) {
		if (lives[i] == 0)
			continue;
		kill(lives[i], SIGKILL);
		waitpid(lives[i], NULL, 0);
		lives[i] = 0;
	}
	return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- the toy subsystem, in the child ---- */

#define THINGS 16
static char things[THINGS][32];
static unsigned int thing_count;
static unsigned int things_replayed; /* calls that were no client's */
static bool things_set;              /* the options: before all things, whenever they were set */

static inline bool
flag(const char *what, const char *name)
{
	char file[128];

	snprintf(file, sizeof(file), "%s-%s", what, name);
	return exists(file);
}

static inline int
find_thing(const char *name)
{
	for (unsigned int i = 0; i < thing_count; i++) {
		if (strcmp(things[i], name) == 0)
			return (int)i;
	}
	return -1;
}

static inline bool
has_thing(const char *name)
{
	return find_thing(name) >= 0;
}

struct thing_params {
	const char *name;
};

static inline int
thing_create(const void *arg, json_t **result, struct errmsg *err)
{
	const struct thing_params *params = arg;

	(void)result;
	things_replayed += app_is_replaying();
	coroutine_sleep(100);
	things_replayed += app_is_replaying();
	if (flag("stop-at", params->name))
		app_stop(0);
	if (flag("missing", params->name))
		return err_set(err, -ENOENT, "thing %s: its file is missing", params->name);
	if (flag("after-c", params->name) && !has_thing("c"))
		return err_set(err, -ENODEV, "thing %s: there is no thing c", params->name);
	if (has_thing(params->name) || thing_count == THINGS)
		return err_set(err, -EEXIST, "thing %s exists already", params->name);
	snprintf(things[thing_count++], sizeof(things[0]), "%s", params->name);
	if (exists("things-help"))
		app_retry_failed();
	return 0;
}

static inline int
thing_delete(const void *arg, json_t **result, struct errmsg *err)
{
	const struct thing_params *params = arg;
	int i = find_thing(params->name);

	(void)result;
	if (i < 0)
		return err_set(err, -ENODEV, "there is no thing %s", params->name);
	thing_count--;
	memmove(things[i], things[i + 1], (thing_count - (unsigned int)i) * sizeof(things[0]));
	return 0;
}

static inline int
things_set_options(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)result;
	(void)err;
	things_set = true;
	return 0;
}

static inline int
start_init(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)result;
	return app_start_subsystems(err);
}

static inline int
wait_init(const void *params, json_t **result, struct errmsg *err)
{
	(void)params;
	(void)result;
	(void)err;
	return app_wait_subsystems();
}

static const struct rpc_param name_param[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = offsetof(struct thing_params, name),
	 .help = "name"},
};
#define NAMED                                                                                      \
	.params = name_param, .param_count = 1, .params_size = sizeof(struct thing_params),        \
	.room = "Test"
static const struct rpc_schema schemas[] = {
	{.name = "thing_create", .flags = RPC_RUNTIME | RPC_CHANGES, NAMED},
	{.name = "thing_delete", .flags = RPC_RUNTIME | RPC_CHANGES, NAMED},
	{.name = "things_set_options", .flags = RPC_RUNTIME | RPC_CHANGES, .room = "Test"},
	{.name = "start_init", .flags = RPC_STARTUP, .room = "Test"},
	{.name = "wait_init", .flags = RPC_STARTUP | RPC_RUNTIME, .room = "Test"},
};
static const struct rpc_method method_table[] = {
	{&schemas[0], thing_create}, {&schemas[1], thing_delete}, {&schemas[2], things_set_options},
	{&schemas[3], start_init},   {&schemas[4], wait_init},    {NULL, NULL},
};
static const struct rpc_method *const methods[] = {method_table, NULL};

static inline int
start_things(const struct app_opts *opts, struct errmsg *err)
{
	(void)opts;
	log_notice("things start");
	if (exists("fail-start"))
		return err_set(err, -ENXIO, "things do not work here");
	return coroutine_sleep(100);
}

static inline void
stop_things(void)
{
	log_notice("things stop");
	while (exists("hang-stop"))
		coroutine_sleep(10000);
}

static inline json_t *
things_config(void)
{
	json_t *config = json_array();

	if (things_set)
		json_array_append_new(config, json_pack("{s:s}", "method", "things_set_options"));
	for (unsigned int i = 0; i < thing_count; i++)
		json_array_append_new(config, json_pack("{s:s, s:{s:s}}", "method", "thing_create",
							"params", "name", things[i]));
	return config;
}

static inline int
start_base(const struct app_opts *opts, struct errmsg *err)
{
	(void)opts;
	(void)err;
	log_notice("base starts");
	return 0;
}

static inline void
stop_base(void)
{
	log_notice("base stops");
}

static const struct app_subsystem base = {.name = "base", .start = start_base, .stop = stop_base};
static const struct app_subsystem thing_room = {
	.name = "things", .start = start_things, .stop = stop_things, .config = things_config};
static const struct app_subsystem *const subsystems[] = {&base, &thing_room, NULL};

/* A request with commit, as from a client; name: NULL for none. Its rc. */
static inline int
call(const char *method, const char *name)
{
	json_t *request = json_pack("{s:s, s:{s:s*}}", "method", method, "params", "name", name);
	struct errmsg err = {""};
	json_t *result;
	int rc = jsonrpc_call(request, true, &result, &err);

	if (rc != 0)
		log_notice("%s %s: %s", method, name != NULL ? name : "", err.text);
	json_decref(result);
	json_decref(request);
	return rc;
}

/* What makes the things a and b. */
__attribute__((unused)) static const char config_a_and_b[] =
	"{\"subsystems\": [{\"subsystem\": \"base\", \"config\": null}, {\"subsystem\": "
	"\"things\", "
	"\"config\": [{\"method\": \"thing_create\", \"params\": {\"name\": \"a\"}}, "
	"{\"method\": \"thing_create\", \"params\": {\"name\": \"b\"}}]}]}";

/* ---- lives ---- */

static inline struct app_opts
default_opts(void)
{
	static char socket_dir[PATH_MAX], rpc_socket[PATH_MAX], state_file[PATH_MAX];

	strcpy(socket_dir, in_folder("sockets"));
	strcpy(rpc_socket, in_folder("rpc.sock"));
	strcpy(state_file, in_folder("state.json"));
	return (struct app_opts){
		.name = "test",
		.memory_mb = 16,
		.socket_dir = socket_dir,
		.rpc_socket = rpc_socket,
		.state_file = state_file,
		.subsystems = subsystems,
		.methods = methods,
	};
}

/* Starts a life; its stderr is the file "log", its last words the file "err". */
static inline pid_t
begin(const struct app_opts *opts, void (*ready)(void *arg))
{
	pid_t pid;

	unlink(in_folder("log"));
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		struct errmsg err = {""};
		int rc;

		if (freopen(in_folder("log"), "a", stderr) == NULL)
			_exit(EXIT_CHECK);
		rc = app_start(opts, ready, NULL, &err);
		put("err", err.text);
		if (rc == -ETIMEDOUT)
			_exit(EXIT_RC(rc));
		exit(rc < 0 ? EXIT_RC(rc) : rc);
	}
	assert_true(pid > 0);
	replace_life(0, pid);
	return pid;
}

static inline void
show_log(void)
{
	fprintf(stderr, "%s", get("log"));
}

/* Exit status, or 1000 + the signal. */
static inline int
end(pid_t pid)
{
	time_t give_up = time(NULL) + DEADLINE_S;
	struct timespec pause = {.tv_nsec = 5000000};
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (time(NULL) > give_up) {
			show_log();
			kill(pid, SIGKILL);
		}
		nanosleep(&pause, NULL);
	}
	replace_life(pid, 0);
	if (WIFSIGNALED(status))
		return 1000 + WTERMSIG(status);
	if (WEXITSTATUS(status) == EXIT_CHECK || WEXITSTATUS(status) == 99)
		show_log();
	return WEXITSTATUS(status);
}

static inline int
live(const struct app_opts *opts, void (*ready)(void *arg))
{
	return end(begin(opts, ready));
}

static inline bool
wait_for_log(const char *words)
{
	time_t give_up = time(NULL) + DEADLINE_S;
	struct timespec pause = {.tv_nsec = 5000000};

	while (!has("log", words)) {
		if (time(NULL) > give_up)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static inline void
stop(void *arg)
{
	(void)arg;
	app_stop(0);
}

#endif
