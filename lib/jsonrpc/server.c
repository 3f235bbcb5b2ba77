/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * server: one OS thread waits for all connections. A request travels as a struct call to a
 * coroutine on the app thread and comes back with its answer; whoever has the call owns its JSON
 * values, so no reference count is touched by two threads.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "coroutine.h"
#include "env.h"
#include "jsonrpc.h"
#include "listener.h"
#include "log.h"
#include "mpsc_queue.h"
#include "registry.h"

#define EVENTS        64
#define TICK_MS       100  /* while something has a deadline */
#define LINGER_MS     2000 /* a refused client may go on sending so long before it is cut off */
#define STOP_CALLS_MS 5000 /* calls may take so long to end when the server stops */
#define STOP_WRITE_MS 500  /* and their answers so long to be read */

struct server {
	/* set once */
	struct listener listener;
	struct thread *app_thread;
	int epoll_fd;
	int wake_fd; /* eventfd: a call is back, or it is time to stop */
	pthread_t os_thread;

	/* any OS thread */
	struct mpsc_queue
		answered; /* calls that are back; their consumer is the server's OS thread */
	atomic_bool stopping;
	atomic_uint refs; /* the server itself and each running call */

	/* the server's OS thread only */
	LIST_HEAD(client_list, client) clients;
	unsigned int client_count;
	unsigned int running; /* calls */
	unsigned int lingering;
	bool full;          /* there was no room for the latest connection, and the log says so */
	bool accept_paused; /* no file descriptors or memory */
	uint64_t stop_deadline_ms;

	/* app thread only */
	struct completion *stopped;
};

/*
 * Belongs to the server's OS thread, then to the coroutine, then to the server's OS thread again.
 */
struct call {
	struct mpsc_node node; /* first */
	struct server *server;
	struct client *client; /* for the server's OS thread */
	json_t *document;
	json_t *answer; /* NULL: there is nothing to answer */
	int rc;
};

static struct server *the_server; /* app thread only */

static uint64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void
wake(struct server *server)
{
	eventfd_write(server->wake_fd, 1);
}

static void
call_free(struct call *call)
{
	json_decref(call->answer);
	json_decref(call->document);
	free(call);
}

static struct call *
pop_answered(struct server *server)
{
	return (struct call *)mpsc_queue_pop(&server->answered);
}

/* The last one to let go is a call that outlived the server, or jsonrpc_server_stop(). */
static void
server_unref(struct server *server)
{
	struct call *call;

	if (atomic_fetch_sub(&server->refs, 1) != 1)
		return;
	while ((call = pop_answered(server)) != NULL)
		call_free(call);
	close(server->epoll_fd);
	close(server->wake_fd);
	free(server);
}

/* ---- calls ---- */

/* A coroutine on the app thread. */
static void
call_run(void *arg)
{
	struct call *call = arg;
	struct server *server = call->server;

	call->rc = dispatch_document(call->document, &call->answer);
	mpsc_queue_push(&server->answered, &call->node);
	wake(server);
	server_unref(server);
}

static int
call_start(struct server *server, struct client *client, json_t *document)
{
	struct call *call = calloc(1, sizeof(*call));
	int rc;

	if (call == NULL) {
		json_decref(document);
		return -ENOMEM;
	}
	call->server = server;
	call->client = client;
	call->document = document;
	atomic_fetch_add(&server->refs, 1);
	rc = coroutine_start(server->app_thread, "rpc call", call_run, call);
	if (rc != 0) {
		atomic_fetch_sub(&server->refs, 1);
		call_free(call);
		return rc;
	}
	client->call = call;
	server->running++;
	return 0;
}

/* ---- clients: one step goes as far as it can without waiting ---- */

static void
drop(struct client *client, const char *why)
{
	log_warn("rpc: client (pid %d): %s: connection closed", (int)client->pid, why);
	client->dead = true;
}

static void
refuse(struct server *server, struct client *client, const char *problem)
{
	json_t *answer = dispatch_error(NULL, JSONRPC_PARSE_ERROR, problem);

	log_warn("rpc: client (pid %d): %s: connection closed", (int)client->pid, problem);
	client->refused = true;
	client->deadline_ms = now_ms() + LINGER_MS;
	server->lingering++;
	if (answer == NULL || client_answer(client, answer) != 0)
		client->dead = true;
	json_decref(answer);
}

/* The sockets are edge-triggered: asking again makes an event of what is there already. */
static void
come_back_to(struct server *server, struct client *client)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
				    .data.ptr = client};

	if (epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, client->fd, &event) < 0)
		client->dead = true;
}

/* Lets a refused client read its answer, which closing while it still sends would destroy. */
static void
step_refused(struct server *server, struct client *client)
{
	enum client_input input;

	client_write(client);
	if (!client_has_output(client) && !client->said_goodbye) {
		shutdown(client->fd, SHUT_WR);
		client->said_goodbye = true;
	}
	input = client_discard(client);
	if (input == CLIENT_EOF || client->write_failed)
		client->dead = true;
	else if (input == CLIENT_BUSY)
		come_back_to(server, client);
}

/* Reads until a call runs or there is nothing to read. */
static void
step_requests(struct server *server, struct client *client)
{
	while (client->call == NULL && !client->dead) {
		json_t *document;
		struct errmsg problem;
		enum client_input input = client_next_document(client, &document, &problem);

		if (input == CLIENT_MALFORMED)
			refuse(server, client, problem.text);
		if (input == CLIENT_BUSY)
			come_back_to(server, client);
		if (input != CLIENT_DOCUMENT)
			return;
		if (call_start(server, client, document) != 0)
			drop(client, "no memory for its request");
	}
}

static void
step(struct server *server, struct client *client)
{
	if (client->dead)
		return;
	if (!client->refused && !atomic_load(&server->stopping))
		step_requests(server, client);
	if (client->refused && !atomic_load(&server->stopping)) {
		step_refused(server, client);
		return;
	}
	client_write(client);
	if (client->call == NULL && !client_has_output(client) &&
	    (client->eof || atomic_load(&server->stopping)))
		client->dead = true;
}

/*
 * A dead client whose call still runs is freed when the call is back. Its socket is taken out of
 * epoll first: closing does that only when nobody else has the socket, and another OS thread may be
 * looking at it (the room vhost does).
 */
static void
free_dead(struct server *server)
{
	struct client *client, *next;

	for (client = LIST_FIRST(&server->clients); client != NULL; client = next) {
		next = LIST_NEXT(client, link);
		if (!client->dead || client->call != NULL)
			continue;
		LIST_REMOVE(client, link);
		epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, client->fd, NULL);
		server->client_count--;
		server->lingering -= client->refused;
		client_free(client);
	}
}

static void
take_answers(struct server *server)
{
	eventfd_t count;
	struct call *call;

	eventfd_read(server->wake_fd, &count);
	while ((call = pop_answered(server)) != NULL) {
		struct client *client = call->client;
		int rc = call->rc;

		client->call = NULL;
		server->running--;
		if (rc == 0 && call->answer != NULL)
			rc = client_answer(client, call->answer);
		if (rc == -ENOBUFS)
			drop(client, "does not read its answers");
		else if (rc != 0)
			drop(client, "no memory for its answer");
		call_free(call);
		step(server, client);
	}
}

/* ---- connections ---- */

static void
listen_for(struct server *server, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = &server->listener};

	epoll_ctl(server->epoll_fd, EPOLL_CTL_MOD, server->listener.fd, &event);
}

static void
add_client(struct server *server, int fd)
{
	struct client *client = client_create(fd);
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
				    .data.ptr = client};

	if (client == NULL) {
		close(fd);
		return;
	}
	if (epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		log_warn("rpc: client (pid %d): %s", (int)client->pid, strerror(errno));
		client_free(client);
		return;
	}
	LIST_INSERT_HEAD(&server->clients, client, link);
	server->client_count++;
}

static void
accept_clients(struct server *server)
{
	/* One batch, then others: the listening socket is level-triggered. */
	for (int i = 0; i < EVENTS; i++) {
		int fd = accept4(server->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 &&
		    (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
			if (!server->full)
				log_warn("rpc socket %s: cannot accept a connection: %s",
					 server->listener.address.sun_path, strerror(errno));
			server->full = true;
			server->accept_paused = true;
			listen_for(server, 0);
			return;
		}
		if (fd < 0)
			return;
		if (server->client_count < JSONRPC_MAX_CLIENTS) {
			server->full = false;
			add_client(server, fd);
			continue;
		}
		close(fd);
		if (!server->full)
			log_warn("rpc socket %s: %u clients are connected already; closing further "
				 "ones",
				 server->listener.address.sun_path, server->client_count);
		server->full = true;
	}
}

/* ---- the OS thread ---- */

static void
tick(struct server *server)
{
	uint64_t now = now_ms();
	struct client *client;

	LIST_FOREACH (client, &server->clients, link) {
		if (client->refused && now >= client->deadline_ms)
			client->dead = true;
	}
	if (server->accept_paused) {
		server->accept_paused = false;
		listen_for(server, EPOLLIN);
	}
}

/* Returns whether all is done: every call is back and its answer written, or their time is up. */
static bool
wind_up(struct server *server)
{
	uint64_t now = now_ms();
	struct client *client;

	if (server->stop_deadline_ms == 0) {
		server->stop_deadline_ms = now + STOP_CALLS_MS;
		server->accept_paused = false;
		epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, server->listener.fd, NULL);
		listener_close(&server->listener);
	}
	if (server->running == 0 && server->stop_deadline_ms > now + STOP_WRITE_MS)
		server->stop_deadline_ms = now + STOP_WRITE_MS;
	LIST_FOREACH (client, &server->clients, link)
		step(server, client);
	free_dead(server);
	return LIST_EMPTY(&server->clients) || now >= server->stop_deadline_ms;
}

static void
handle_events(struct server *server, int timeout_ms)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(server->epoll_fd, events, EVENTS, timeout_ms);

	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr == &server->listener)
			accept_clients(server);
		else if (events[i].data.ptr == &server->wake_fd)
			take_answers(server);
		else
			step(server, events[i].data.ptr);
	}
}

static void *
server_main(void *arg)
{
	struct server *server = arg;
	struct client *client;
	int rc = env_pin_to_housekeeping();
	bool done = false;

	pthread_setname_np(pthread_self(), "vhostd-rpc");
	if (rc != 0)
		log_warn("rpc: the server's OS thread stays on its CPU: %s", strerror(-rc));
	while (!done) {
		bool ticking = server->lingering > 0 || server->accept_paused ||
			       server->stop_deadline_ms > 0;

		handle_events(server, ticking ? TICK_MS : -1);
		if (ticking)
			tick(server);
		free_dead(server);
		done = atomic_load(&server->stopping) && wind_up(server);
	}
	if (server->running > 0)
		log_warn("rpc: %u calls did not end in time", server->running);
	while ((client = LIST_FIRST(&server->clients)) != NULL) {
		LIST_REMOVE(client, link);
		client_free(client);
	}
	completion_signal(server->stopped, 0);
	return NULL;
}

/* ---- start and stop ---- */

static int
watch(struct server *server, int fd, void *ptr)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = ptr};

	return epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int
open_server(struct server *server, const struct jsonrpc_server_opts *opts, struct errmsg *err)
{
	int rc;

	server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	server->stopped = completion_create();
	if (server->epoll_fd < 0 || server->wake_fd < 0 || server->stopped == NULL)
		return err_set(err, -ENOMEM, "rpc: no memory or file descriptors for the server");
	rc = listener_open(&server->listener, "rpc", opts->path, opts->mode, err);
	if (rc != 0)
		return rc;
	rc = watch(server, server->listener.fd, &server->listener);
	if (rc == 0)
		rc = watch(server, server->wake_fd, &server->wake_fd);
	if (rc == 0)
		rc = env_start_os_thread(&server->os_thread, server_main, server);
	if (rc != 0) {
		listener_close(&server->listener);
		return err_set(err, rc, "rpc: cannot start the server: %s", strerror(-rc));
	}
	return 0;
}

int
jsonrpc_server_start(const struct jsonrpc_server_opts *opts, struct errmsg *err)
{
	struct server *server;
	int rc;

	if (the_server != NULL)
		return -EALREADY;
	server = aligned_alloc(_Alignof(struct server), sizeof(*server));
	if (server == NULL)
		return -ENOMEM;
	memset(server, 0, sizeof(*server));
	LIST_INIT(&server->clients);
	mpsc_queue_init(&server->answered);
	atomic_init(&server->refs, 1);
	server->app_thread = opts->thread;
	rc = open_server(server, opts, err);
	if (rc != 0) {
		completion_drop(server->stopped);
		server_unref(server);
		return rc;
	}
	registry_set_commit(opts->commit);
	the_server = server;
	return 0;
}

void
jsonrpc_server_stop(void)
{
	struct server *server = the_server;

	if (server == NULL)
		return;
	the_server = NULL;
	jsonrpc_set_state(0);
	atomic_store(&server->stopping, true);
	wake(server);
	completion_wait(server->stopped, WAIT_FOREVER);
	pthread_join(server->os_thread, NULL);
	completion_put(server->stopped);
	server_unref(server);
}
