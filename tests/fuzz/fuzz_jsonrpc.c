/* SPDX-License-Identifier: BSD-3-Clause */
/* links: rpc app metrics jsonrpc vhost scsi reservation virtio bdev event testlib thread env */
/* ldflags: -Wl,--wrap=kill,--wrap=usleep,--wrap=fsync,--wrap=uring_file_open,--wrap=log_write */
/*
 * A JSON-RPC client that sends anything: the bytes of the input, in pieces, through the client's
 * buffers, the framing and the parser to the daemon's own methods. Every answer must be JSON, and
 * the configuration that is there afterwards must make the same configuration again.
 */
#include "jsonrpc/client.h"
#include "jsonrpc/registry.h"
#include "rpc_rig.h"

#define MAX_DOCUMENTS 64

static struct {
	struct client *client;
	int peer;
	json_t *document;
} world;

/* ---- answers ---- */

static void
check_line(const char *line, size_t length)
{
	json_t *answer = json_loadb(line, length, 0, NULL);

	require(answer != NULL);
	require(json_is_array(answer) ||
		strcmp(json_string_value(json_object_get(answer, "jsonrpc")), "2.0") == 0);
	json_decref(answer);
}

/* Whole lines, with nothing left over. */
static void
read_answers(void)
{
	static char text[1 << 20];
	size_t size = 0, start = 0;
	ssize_t n;

	do {
		client_write(world.client);
		n = recv(world.peer, text + size, sizeof(text) - size, MSG_DONTWAIT);
		size += n > 0 ? (size_t)n : 0;
	} while ((n > 0 || client_has_output(world.client)) && size < sizeof(text));
	for (size_t i = 0; i < size; i++) {
		if (text[i] != '\n')
			continue;
		check_line(text + start, i - start);
		start = i + 1;
	}
	require(start == size || size == sizeof(text));
}

/* ---- requests ---- */

static void
dispatch(void *arg)
{
	json_t *answer = NULL;

	(void)arg;
	require(dispatch_document(world.document, &answer) == 0);
	if (answer != NULL)
		require(client_answer(world.client, answer) == 0);
	json_decref(answer);
}

/* All documents that are whole. False: nothing more can come. */
static bool
take_documents(unsigned int *count)
{
	struct errmsg problem = {""};
	enum client_input input;

	for (;;) {
		input = client_next_document(world.client, &world.document, &problem);
		if (input == CLIENT_BUSY)
			continue;
		if (input != CLIENT_DOCUMENT)
			break;
		rig_idles = 0;
		rig_run(rig.app, dispatch, NULL);
		json_decref(world.document);
		read_answers();
		if (++*count == MAX_DOCUMENTS)
			return false;
	}
	require(input != CLIENT_MALFORMED || problem.text[0] != '\0');
	return input == CLIENT_WAIT;
}

/* What a change costs, without the file. */
static int
commit(struct errmsg *err)
{
	json_t *config = app_config_json();
	char *text = json_dumps(config, 0);

	(void)err;
	require(text != NULL);
	free(text);
	json_decref(config);
	return 0;
}

/*
 * What the parser takes for a document ends where the framing says, in however many pieces it
 * comes.
 */
static void
check_framing(const char *text, size_t size, size_t piece)
{
	struct framing framing = {0};
	size_t done = 0, used;
	json_error_t error;
	json_t *document;
	int rc = 0;

	/* jansson swallows a zero byte behind a number, and does not count it. */
	if (memchr(text, '\0', size) != NULL)
		return;
	document = json_loadb(text, size, JSON_DISABLE_EOF_CHECK, &error);
	if (document == NULL)
		return;
	json_decref(document);
	while (rc == 0 && done < size) {
		rc = framing_scan(&framing, text + done, size - done < piece ? size - done : piece,
				  &used);
		done += used;
	}
	require(rc == -ELOOP || (rc == 1 && done == (size_t)error.position));
}

/* ---- the configuration ---- */

static void
get_config(void *arg)
{
	*(json_t **)arg = app_config_json();
}

/* Calls what the configuration says, as a start does. */
static void
replay(void *arg)
{
	json_t *subsystem, *entry, *result;
	size_t i, j;

	json_array_foreach (json_object_get(arg, "subsystems"), i, subsystem) {
		json_array_foreach (json_object_get(subsystem, "config"), j, entry) {
			struct errmsg err = {""};

			require(jsonrpc_call(entry, false, &result, &err) == 0);
			json_decref(result);
		}
	}
}

static bool
is_empty(json_t *config)
{
	json_t *subsystem;
	size_t i;

	json_array_foreach (json_object_get(config, "subsystems"), i, subsystem) {
		if (json_array_size(json_object_get(subsystem, "config")) > 0)
			return false;
	}
	return true;
}

static void
check_config(void)
{
	json_t *first, *second;

	rig_run(rig.app, get_config, &first);
	require(first != NULL);
	if (!is_empty(first)) {
		rig_clear();
		rig_run(rig.app, replay, first);
		rig_run(rig.app, get_config, &second);
		require(json_equal(first, second));
		json_decref(second);
		rig_clear();
	}
	json_decref(first);
}

/* ---- the world ---- */

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	rig_start_rpc();
	registry_set_commit(commit);
	return 0;
}

/* Two bytes say how the rest comes: in which state of the daemon, and in pieces of which length. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t state = input_u8(&in);
	size_t piece = input_u8(&in) + 1u;
	unsigned int count = 0;
	bool open = true;
	int fds[2];

	require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	world.client = client_create(fds[0]);
	world.peer = fds[1];
	require(world.client != NULL);
	check_framing((const char *)in.data, in.size, piece);
	rig_stopping = false;
	jsonrpc_set_state(state == 's' ? RPC_STARTUP : RPC_RUNTIME);
	while (open && in.size > 0) {
		size_t got;
		const uint8_t *text = input_take(&in, piece, &got);

		require(send(world.peer, text, got, MSG_NOSIGNAL) == (ssize_t)got);
		open = take_documents(&count);
		piece = piece * 5 % 257;
	}
	client_free(world.client);
	close(world.peer);
	check_config();
	return 0;
}
