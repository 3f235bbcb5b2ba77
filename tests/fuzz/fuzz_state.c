/* SPDX-License-Identifier: BSD-3-Clause */
/* links: rpc app metrics jsonrpc vhost scsi reservation virtio bdev event testlib thread env */
/* ldflags: -Wl,--wrap=kill,--wrap=usleep,--wrap=fsync,--wrap=uring_file_open,--wrap=log_write */
/*
 * A state journal with anything in it. Either it is refused, and kept aside if it is damaged, or it
 * is replayed; then the journal that is written leads to itself again, or to another one by which
 * less fails: entries of a subsystem that nobody knows come last in it, behind what they needed.
 */
#include "app/config.h"
#include "app/state.h"
#include "rpc_rig.h"

static char path[PATH_MAX + 16], aside[PATH_MAX + 32];

struct life {
	int rc;        /* of reading */
	size_t failed; /* entries that are kept nevertheless */
	json_t *before, *after;
};

static size_t
count_failed(void)
{
	json_t *state = config_state_json();
	size_t count = json_array_size(json_object_get(state, "failed"));

	json_decref(state);
	return count;
}

/* Start, replay, a commit, stop. */
static void
live(void *arg)
{
	struct life *life = arg;
	struct errmsg err = {""};

	life->before = life->after = NULL;
	life->rc = config_open(&rig_opts, &err);
	require(life->rc == 0 || err.text[0] != '\0');
	if (life->rc != 0)
		return;
	require(document_read(path, &life->before, &err) == 0);
	config_replay();
	require(config_commit(&err) == 0);
	life->failed = count_failed();
	config_close();
	require(document_read(path, &life->after, &err) == 0);
}

static void
live_again(struct life *life)
{
	json_decref(life->before);
	json_decref(life->after);
	rig_clear();
	rig_run(rig.app, live, life);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	rig_start_rpc();
	snprintf(path, sizeof(path), "%s/state.json", rig.folder);
	snprintf(aside, sizeof(aside), "%s.damaged-1", path);
	rig_opts.state_file = path;
	jsonrpc_set_state(RPC_RUNTIME);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct life life;
	size_t failed;

	require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
	rig_run(rig.app, live, &life);
	require((life.rc == -EBADMSG) == (unlink(aside) == 0));
	if (life.rc != 0) {
		require(life.rc == -EBADMSG || life.rc == -ENOTSUP);
		return 0;
	}
	do {
		failed = life.failed;
		live_again(&life);
		require(life.rc == 0);
	} while (life.failed < failed && !json_equal(life.before, life.after));
	require(json_equal(life.before, life.after));
	json_decref(life.before);
	json_decref(life.after);
	rig_clear();
	return 0;
}
