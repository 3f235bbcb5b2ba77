/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server: HTTP on an OS thread of its own, which is the only one that calls libmicrohttpd. A
 * request waits (suspended) for the next collection, a coroutine on the app thread, or gets the
 * text of the last one when that is fresh. One collection runs at a time.
 */
#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "coroutine.h"
#include "env.h"
#include "listener.h"
#include "log.h"
#include "metrics.h"

#define TICK_MS       250  /* while there are connections */
#define REQUEST_BYTES 8192 /* of a request's head, and of an answer's */
#define SOCKET_MODE   0660

/* A connection of libmicrohttpd's. */
struct peer {
	struct MHD_Connection *connection; /* NULL: free */
	int fd;
	uint64_t deadline_ms;
	bool waits; /* suspended */
	bool due;   /* what it waited for is there, or will not come */
};

struct server {
	/* set once */
	struct listener listener;
	struct thread *app_thread;
	json_t *(*collect)(void);
	int wake_fd; /* eventfd: a collection is over, or it is time to stop */
	pthread_t os_thread;
	struct MHD_Daemon *http; /* the server's OS thread only */

	/* any OS thread */
	_Atomic(struct collection *) collected;
	atomic_bool stopping;
	atomic_uint refs; /* the server itself and a running collection */

	/* the server's OS thread only */
	struct peer peers[METRICS_CONNECTIONS_MAX];
	uint32_t peer_count;
	uint64_t accepted;           /* connections */
	bool refused;                /* to accept one, and it was said */
	struct MHD_Response *answer; /* what was collected last; NULL: nothing */
	uint64_t answer_ms;
	bool collecting;
	uint64_t collect_deadline_ms;

	/* app thread only */
	struct completion *stopped;
};

/* Belongs to the coroutine, then to the server's OS thread. */
struct collection {
	struct server *server;
	json_t *records; /* NULL: no memory */
};

static struct server *the_server; /* app thread only */

static uint64_t
now_ms(void)
{
	return env_ticks() / (env_ticks_hz() / 1000);
}

static void
collection_free(struct collection *collection)
{
	json_decref(collection->records);
	free(collection);
}

static void
server_unref(struct server *server)
{
	struct collection *collection;

	if (atomic_fetch_sub(&server->refs, 1) != 1)
		return;
	collection = atomic_load(&server->collected);
	if (collection != NULL)
		collection_free(collection);
	close(server->wake_fd);
	free(server);
}

/* ---- collections ---- */

/* A coroutine on the app thread. */
static void
run_collection(void *arg)
{
	struct collection *collection = arg;
	struct server *server = collection->server;

	collection->records = server->collect();
	atomic_store(&server->collected, collection);
	eventfd_write(server->wake_fd, 1);
	server_unref(server);
}

/* 0, -ENOMEM or -ECANCELED. */
static int
start_collection(struct server *server)
{
	struct collection *collection = calloc(1, sizeof(*collection));
	int rc;

	if (collection == NULL)
		return -ENOMEM;
	collection->server = server;
	atomic_fetch_add(&server->refs, 1);
	rc = coroutine_start(server->app_thread, "metrics", run_collection, collection);
	if (rc != 0) {
		atomic_fetch_sub(&server->refs, 1);
		collection_free(collection);
		return rc;
	}
	server->collecting = true;
	server->collect_deadline_ms = now_ms() + METRICS_COLLECT_MS;
	return 0;
}

/* Those that wait get the answer, or an error when there is none. */
static void
resume_all(struct server *server)
{
	for (uint32_t i = 0; i < METRICS_CONNECTIONS_MAX; i++) {
		struct peer *peer = &server->peers[i];

		if (peer->connection == NULL || !peer->waits)
			continue;
		peer->waits = false;
		peer->due = true;
		MHD_resume_connection(peer->connection);
	}
}

static void
set_answer(struct server *server, struct MHD_Response *answer)
{
	if (server->answer != NULL)
		MHD_destroy_response(server->answer); /* when it is sent to all */
	server->answer = answer;
	server->answer_ms = now_ms();
}

/* The response owns the text, or frees it when it cannot be made. */
static struct MHD_Response *
make_answer(const json_t *records)
{
	struct MHD_Response *answer;
	size_t length;
	char *text;

	text = records != NULL ? metrics_text(records, &length) : NULL;
	if (text == NULL)
		return NULL;
	answer = MHD_create_response_from_buffer(length, text, MHD_RESPMEM_MUST_FREE);
	if (answer == NULL) {
		free(text);
		return NULL;
	}
	MHD_add_response_header(answer, MHD_HTTP_HEADER_CONTENT_TYPE, METRICS_CONTENT_TYPE);
	MHD_add_response_header(answer, MHD_HTTP_HEADER_CONNECTION, "close");
	return answer;
}

static void
take_collection(struct server *server)
{
	struct collection *collection = atomic_exchange(&server->collected, NULL);

	if (collection == NULL)
		return;
	server->collecting = false;
	set_answer(server, make_answer(collection->records));
	collection_free(collection);
	resume_all(server);
}

static bool
is_overdue(const struct server *server)
{
	return server->collecting && now_ms() >= server->collect_deadline_ms;
}

/* ---- requests ---- */

static enum MHD_Result
refuse(struct MHD_Connection *connection, unsigned int status, const char *text)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(
		strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
	enum MHD_Result result;

	if (response == NULL)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
wait_for_answer(struct server *server, struct peer *peer)
{
	if (!server->collecting && start_collection(server) != 0)
		return refuse(peer->connection, MHD_HTTP_SERVICE_UNAVAILABLE, "No memory.\n");
	peer->waits = true;
	MHD_suspend_connection(peer->connection);
	return MHD_YES;
}

static enum MHD_Result
answer(struct server *server, struct peer *peer)
{
	bool is_fresh = server->answer != NULL && now_ms() - server->answer_ms < METRICS_FRESH_MS;

	if (!is_fresh && !peer->due)
		return wait_for_answer(server, peer);
	if (server->answer == NULL)
		return refuse(peer->connection, MHD_HTTP_SERVICE_UNAVAILABLE,
			      "The daemon did not say in time what it has counted.\n");
	return MHD_queue_response(peer->connection, MHD_HTTP_OK, server->answer);
}

/*
 * libmicrohttpd calls it with a request's head, with each piece of its body, which nobody wants,
 * and at its end; and again there when the connection was suspended.
 */
static enum MHD_Result
handle(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
       const char *version, const char *data, size_t *size, void **context)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	bool has_begun = *context != NULL;

	(void)version;
	(void)data;
	if (info == NULL || info->socket_context == NULL)
		return MHD_NO;
	*context = info->socket_context;
	if (*size > 0) {
		*size = 0;
		return MHD_YES;
	}
	if (!has_begun)
		return MHD_YES;
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET and HEAD.\n");
	if (strcmp(url, "/metrics") != 0)
		return refuse(connection, MHD_HTTP_NOT_FOUND, "It is /metrics.\n");
	return answer(arg, info->socket_context);
}

/* ---- connections ---- */

static void
add_peer(struct server *server, struct MHD_Connection *connection, void **context)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	uint32_t i = 0;

	while (i < METRICS_CONNECTIONS_MAX && server->peers[i].connection != NULL)
		i++;
	if (i == METRICS_CONNECTIONS_MAX)
		return; /* not before libmicrohttpd's own limit; handle() would close it */
	server->peers[i] = (struct peer){
		.connection = connection,
		.fd = info->connect_fd,
		.deadline_ms = now_ms() + METRICS_CONNECTION_MS,
	};
	server->peer_count++;
	server->accepted++;
	server->refused = false;
	*context = &server->peers[i];
}

/* context: the connection's own, first NULL. */
static void
notify(void *arg, struct MHD_Connection *connection, void **context,
       enum MHD_ConnectionNotificationCode what)
{
	struct server *server = arg;
	struct peer *peer = *context;

	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		add_peer(server, connection, context);
	} else if (peer != NULL) {
		peer->connection = NULL;
		server->peer_count--;
	}
}

/* libmicrohttpd sees the end of the stream, and closes it. */
static void
cut_off_late(struct server *server)
{
	uint64_t now = now_ms();

	for (uint32_t i = 0; i < METRICS_CONNECTIONS_MAX; i++) {
		struct peer *peer = &server->peers[i];

		if (peer->connection != NULL && now >= peer->deadline_ms)
			shutdown(peer->fd, SHUT_RDWR);
	}
}

/* ---- the OS thread ---- */

static int
timeout(struct server *server)
{
	bool ticking = server->peer_count > 0 || server->collecting;
	MHD_UNSIGNED_LONG_LONG ms;

	if (MHD_get_timeout(server->http, &ms) == MHD_YES && (!ticking || ms < TICK_MS))
		return ms < TICK_MS ? (int)ms : TICK_MS;
	return ticking ? TICK_MS : -1;
}

/* When connections have ended it takes another run for libmicrohttpd to listen again. */
static void
run_http(struct server *server)
{
	uint32_t before;

	do {
		before = server->peer_count;
		MHD_run(server->http);
	} while (server->peer_count < before);
}

/*
 * A process without a free descriptor cannot accept, and the socket stays readable: without peers,
 * at whose end libmicrohttpd would try again, it would be asked all the time.
 */
static void
rest(struct server *server, struct pollfd *wake)
{
	if (!server->refused)
		log_warn("metrics: cannot accept a connection: no descriptor or memory is left");
	server->refused = true;
	poll(wake, 1, TICK_MS);
}

static void
serve(struct server *server)
{
	const union MHD_DaemonInfo *info =
		MHD_get_daemon_info(server->http, MHD_DAEMON_INFO_EPOLL_FD);
	struct pollfd fds[] = {{info->epoll_fd, POLLIN, 0}, {server->wake_fd, POLLIN, 0}};
	eventfd_t count;

	while (!atomic_load(&server->stopping) || (server->collecting && !is_overdue(server))) {
		uint64_t accepted = server->accepted;
		bool is_alone = server->peer_count == 0;

		poll(fds, 2, timeout(server));
		eventfd_read(server->wake_fd, &count);
		take_collection(server);
		if (is_overdue(server)) {
			set_answer(server, NULL);
			resume_all(server);
		}
		cut_off_late(server);
		run_http(server);
		if (is_alone && fds[0].revents != 0 && server->accepted == accepted)
			rest(server, &fds[1]);
	}
}

static void *
server_main(void *arg)
{
	struct server *server = arg;
	int rc = env_pin_to_housekeeping();

	pthread_setname_np(pthread_self(), "vhostd-metrics");
	if (rc != 0)
		log_warn("metrics: the server's OS thread stays on its CPU: %s", strerror(-rc));
	serve(server);
	MHD_quiesce_daemon(server->http); /* the socket is the listener's */
	listener_close(&server->listener);
	set_answer(server, NULL);
	resume_all(server);
	MHD_stop_daemon(server->http);
	completion_signal(server->stopped, 0);
	return NULL;
}

/* ---- start and stop ---- */

/* 0 or -EINVAL. *path NULL: it is a port. */
static int
parse_address(const char *address, const char **path, uint16_t *port)
{
	static const char unix_prefix[] = "unix:", tcp_prefix[] = "127.0.0.1:";
	const char *digits = address + strlen(tcp_prefix);
	unsigned long number;
	char *end;

	*path = NULL;
	*port = 0;
	if (strncmp(address, unix_prefix, strlen(unix_prefix)) == 0) {
		*path = address + strlen(unix_prefix);
		return **path != '\0' ? 0 : -EINVAL;
	}
	if (strncmp(address, tcp_prefix, strlen(tcp_prefix)) != 0 || *digits < '0' || *digits > '9')
		return -EINVAL;
	number = strtoul(digits, &end, 10);
	if (*end != '\0' || number == 0 || number > UINT16_MAX)
		return -EINVAL;
	*port = (uint16_t)number;
	return 0;
}

int
metrics_address_check(const char *address)
{
	const char *path;
	uint16_t port;

	return parse_address(address, &path, &port);
}

static int
listen_at(struct server *server, const char *address, struct errmsg *err)
{
	const char *path;
	uint16_t port;

	if (parse_address(address, &path, &port) != 0)
		return err_set(err, -EINVAL, "metrics: '%s' is not unix:PATH or 127.0.0.1:PORT",
			       address);
	if (path != NULL)
		return listener_open(&server->listener, "metrics", path, SOCKET_MODE, err);
	return listener_open_loopback(&server->listener, "metrics", port, err);
}

/* Without threads of its own; a request that was refused by libmicrohttpd is not our business. */
static int
start_http(struct server *server)
{
	server->http =
		MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle,
				 server, MHD_OPTION_LISTEN_SOCKET, server->listener.fd,
				 MHD_OPTION_CONNECTION_LIMIT, (unsigned int)METRICS_CONNECTIONS_MAX,
				 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)REQUEST_BYTES,
				 MHD_OPTION_NOTIFY_CONNECTION, notify, server, MHD_OPTION_END);
	return server->http != NULL ? 0 : -ENOMEM;
}

static int
open_server(struct server *server, const char *address, struct errmsg *err)
{
	int rc = listen_at(server, address, err);

	if (rc != 0)
		return rc;
	rc = start_http(server);
	if (rc == 0)
		rc = env_start_os_thread(&server->os_thread, server_main, server);
	if (rc == 0)
		return 0;
	if (server->http != NULL) {
		MHD_quiesce_daemon(server->http);
		MHD_stop_daemon(server->http);
	}
	listener_close(&server->listener);
	return err_set(err, rc, "metrics: cannot start the server: %s", strerror(-rc));
}

int
metrics_server_start(const struct metrics_server_opts *opts, struct errmsg *err)
{
	struct server *server;
	int rc = -ENOMEM;

	if (the_server != NULL)
		return -EALREADY;
	server = calloc(1, sizeof(*server));
	if (server == NULL)
		return rc;
	atomic_init(&server->refs, 1);
	server->app_thread = opts->thread;
	server->collect = opts->collect;
	server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	server->stopped = completion_create();
	if (server->wake_fd >= 0 && server->stopped != NULL)
		rc = open_server(server, opts->address, err);
	if (rc != 0) {
		completion_drop(server->stopped);
		server_unref(server);
		return rc;
	}
	the_server = server;
	log_notice("metrics: on %s", opts->address);
	return 0;
}

void
metrics_server_stop(void)
{
	struct server *server = the_server;

	if (server == NULL)
		return;
	the_server = NULL;
	atomic_store(&server->stopping, true);
	eventfd_write(server->wake_fd, 1);
	completion_wait(server->stopped, WAIT_FOREVER);
	pthread_join(server->os_thread, NULL);
	completion_put(server->stopped);
	server_unref(server);
}
