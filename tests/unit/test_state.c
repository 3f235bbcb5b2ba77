/* SPDX-License-Identifier: BSD-3-Clause */
/* links: app env */
/* The file of the state journal: reading, writing, locking, and what becomes of a damaged one. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/state.h"

static const char good[] =
	"{\"version\": 1, \"subsystems\": [{\"subsystem\": \"bdev\", \"config\": ["
	"{\"method\": \"bdev_null_create\", \"params\": {\"name\": \"n\"}}]}]}";

static char folder[PATH_MAX - 64];
static char path[PATH_MAX];

static int
setup(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	snprintf(folder, sizeof(folder), "%s/state-XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(folder) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/state.json", folder);
	return 0;
}

static int
teardown(void **state)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;

	(void)state;
	while ((entry = readdir(dir)) != NULL)
		unlinkat(dirfd(dir), entry->d_name, 0);
	closedir(dir);
	return rmdir(folder);
}

static void
put(const char *name, const char *text, size_t length)
{
	char file[PATH_MAX];
	int fd;

	snprintf(file, sizeof(file), "%s/%s", folder, name);
	fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, length), length);
	close(fd);
}

static void
put_text(const char *name, const char *text)
{
	put(name, text, strlen(text));
}

static bool
exists(const char *name)
{
	char file[PATH_MAX];

	snprintf(file, sizeof(file), "%s/%s", folder, name);
	return access(file, F_OK) == 0;
}

static void
test_none_yet(void **test)
{
	struct state_file state = {0};
	struct errmsg err = {""};
	json_t *document = (json_t *)&state;

	(void)test;
	assert_int_equal(state_open(&state, path, &err), 0);
	assert_int_equal(state_read(&state, &document, &err), 0);
	assert_null(document);
	assert_string_equal(err.text, "");
	assert_false(exists("state.json"));
	state_close(&state);
	state_close(&state);
}

static void
test_write_and_read(void **test)
{
	struct state_file state = {0};
	struct errmsg err = {""};
	json_t *document, *expected;
	char left[PATH_MAX + 64];

	(void)test;
	snprintf(left, sizeof(left), "%s.tmp", path);
	assert_int_equal(mkfifo(left, 0644), 0); /* in the way, and nobody reads it */
	expected = json_loads(good, 0, NULL);
	assert_int_equal(state_open(&state, path, &err), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(state_write(&state, good, strlen(good), &err), 0);
		assert_int_equal(state_read(&state, &document, &err), 0);
		assert_true(json_equal(document, expected));
		json_decref(document);
	}
	assert_false(exists("state.json.tmp"));
	json_decref(expected);
	state_close(&state);
}

static void
test_locked(void **test)
{
	struct state_file state = {0}, other = {0};
	struct errmsg err = {""};
	int status;
	pid_t pid;

	(void)test;
	assert_int_equal(state_open(&state, path, &err), 0);
	assert_int_equal(state_open(&other, path, &err), -EBUSY);
	assert_non_null(strstr(err.text, path));
	pid = fork();
	if (pid == 0)
		_exit(state_open(&other, path, &err) == -EBUSY ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	state_close(&state);
	assert_int_equal(state_open(&other, path, &err), 0);
	state_close(&other);
}

static void
test_no_folder(void **test)
{
	struct state_file state = {0};
	struct errmsg err = {""};
	char deep[PATH_MAX + 64], *wide = malloc(PATH_MAX);

	(void)test;
	snprintf(deep, sizeof(deep), "%s/no/state.json", folder);
	assert_int_equal(state_open(&state, deep, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/no/state.json"));
	memset(wide, 'x', PATH_MAX - 1);
	wide[PATH_MAX - 1] = '\0';
	assert_int_equal(state_open(&state, wide, &err), -ENAMETOOLONG);
	free(wide);
}

static void
test_damaged(void **test)
{
	static const char *const texts[] = {
		"",
		"{",
		"not JSON",
		"[]",
		"3",
		"{}",
		"{\"subsystems\": {}}",
		"{\"subsystems\": [3]}",
		"{\"subsystems\": [{\"config\": []}]}",
		"{\"subsystems\": [{\"subsystem\": 3}]}",
		"{\"subsystems\": [{\"subsystem\": \"a\", \"config\": {}}]}",
		"{\"subsystems\": [{\"subsystem\": \"a\", \"config\": [[]]}]}",
		"{\"subsystems\": [{\"subsystem\": \"a\", \"config\": [{\"params\": {}}]}]}",
		"{\"subsystems\": [{\"subsystem\": \"a\", \"config\": [{\"method\": 1}]}]}",
		"{\"subsystems\": [{\"subsystem\": \"a\", \"config\": [{\"method\": \"m\", "
		"\"params\": []}]}]}",
		"{\"subsystems\": [], \"subsystems\": []}",
		"{\"subsystems\": []} trailing",
		"{\"subsystems\": [], \"x\": \"\xff\"}",
	};
	struct state_file state = {0};
	struct errmsg err = {""};
	json_t *document;
	char aside[32];

	(void)test;
	assert_int_equal(state_open(&state, path, &err), 0);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		snprintf(aside, sizeof(aside), "state.json.damaged-%zu", i + 1);
		put_text("state.json", texts[i]);
		assert_int_equal(state_read(&state, &document, &err), -EBADMSG);
		assert_null(document);
		assert_non_null(strstr(err.text, aside));
		assert_false(exists("state.json"));
		assert_true(exists(aside));
	}
	/* A second start must not go on without disks as if nothing had been. */
	assert_int_equal(state_read(&state, &document, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "state.json.damaged-1"));
	put_text("state.json", good);
	assert_int_equal(state_read(&state, &document, &err), 0);
	json_decref(document);
	state_close(&state);
}

static void
test_cut_anywhere(void **test)
{
	struct errmsg err = {""};
	json_t *document;

	(void)test;
	for (size_t length = 0; length < strlen(good); length++) {
		put("cut.json", good, length);
		snprintf(path, sizeof(path), "%s/cut.json", folder);
		assert_int_equal(document_read(path, &document, &err), -EBADMSG);
		assert_null(document);
	}
	put("cut.json", good, sizeof(good)); /* with its NUL */
	assert_int_equal(document_read(path, &document, &err), -EBADMSG);
}

static void
test_other_versions(void **test)
{
	struct state_file state = {0};
	struct errmsg err = {""};
	json_t *document;

	(void)test;
	assert_int_equal(state_open(&state, path, &err), 0);
	put_text("state.json", "{\"version\": 2, \"subsystems\": []}");
	assert_int_equal(state_read(&state, &document, &err), -ENOTSUP);
	assert_null(document);
	assert_true(exists("state.json")); /* it is not damaged */
	put_text("state.json", "{\"version\": \"1\", \"subsystems\": []}");
	assert_int_equal(state_read(&state, &document, &err), -ENOTSUP);
	/* What SPDK's rpc.py save_config writes has none, and null where there is nothing. */
	put_text("state.json",
		 "{\"subsystems\": [{\"subsystem\": \"keyring\", \"config\": null}], \"x\": 1}");
	assert_int_equal(state_read(&state, &document, &err), 0);
	json_decref(document);
	state_close(&state);
}

static void
test_not_a_file(void **test)
{
	struct errmsg err = {""};
	json_t *document;

	(void)test;
	assert_int_equal(document_read(folder, &document, &err), -EINVAL);
	assert_non_null(strstr(err.text, folder));
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(document_read(path, &document, &err), -EINVAL);
	unlink(path);
	assert_int_equal(document_read(path, &document, &err), -ENOENT);
	put("state.json", "", 0);
	assert_int_equal(truncate(path, STATE_MAX_BYTES + 1), 0);
	assert_int_equal(document_read(path, &document, &err), -EFBIG);
}

static void
test_write_fails(void **test)
{
	struct state_file state = {0};
	struct errmsg err = {""};
	char busy[PATH_MAX + 64];

	(void)test;
	assert_int_equal(state_open(&state, path, &err), 0);
	assert_int_equal(state_write(&state, good, strlen(good), &err), 0);
	/* The new file cannot be made: the old one stays. */
	snprintf(busy, sizeof(busy), "%s.tmp", path);
	assert_int_equal(mkdir(busy, 0700), 0);
	assert_int_equal(state_write(&state, "new", 3, &err), -EEXIST);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(rmdir(busy), 0);
	assert_int_equal(state_write(&state, good, strlen(good), &err), 0);
	state_close(&state);
}

static void
test_full_disk(void **test)
{
	struct rlimit before, small;
	struct state_file state = {0};
	struct errmsg err = {""};
	json_t *document;
	char *large = calloc(1, 8192);

	(void)test;
	memset(large, ' ', 8191);
	assert_int_equal(state_open(&state, path, &err), 0);
	assert_int_equal(state_write(&state, good, strlen(good), &err), 0);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &before);
	small = (struct rlimit){.rlim_cur = 4096, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_int_equal(state_write(&state, large, strlen(large), &err), -EFBIG);
	setrlimit(RLIMIT_FSIZE, &before);
	assert_false(exists("state.json.tmp"));
	assert_int_equal(state_read(&state, &document, &err), 0);
	json_decref(document);
	free(large);
	state_close(&state);
}

/* To start without disks because a file system is not mounted would be to lose them. */
static void
test_symbolic_link(void **test)
{
	struct state_file state = {0}, other = {0};
	struct errmsg err = {""};
	char target[PATH_MAX];
	json_t *document;
	struct stat st;

	(void)test;
	snprintf(target, sizeof(target), "%s/target.json", folder);
	assert_int_equal(symlink("target.json", path), 0);
	assert_int_equal(state_open(&state, path, &err), -ENOENT);
	assert_non_null(strstr(err.text, path));
	put_text("target.json", good);
	assert_int_equal(state_open(&state, path, &err), 0);
	assert_int_equal(state_open(&other, target, &err), -EBUSY);
	assert_int_equal(state_write(&state, "{\"subsystems\": []}", 18, &err), 0);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(document_read(target, &document, &err), 0);
	assert_int_equal(json_array_size(json_object_get(document, "subsystems")), 0);
	json_decref(document);
	state_close(&state);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_none_yet, setup, teardown),
		cmocka_unit_test_setup_teardown(test_write_and_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_locked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_folder, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut_anywhere, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_versions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_a_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_write_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_symbolic_link, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
