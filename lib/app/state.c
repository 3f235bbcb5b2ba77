/* SPDX-License-Identifier: BSD-3-Clause */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

#define DAMAGED_MAX 100 /* how many we look for */

/* ---- reading ---- */

static int
check_entry(json_t *entry)
{
	json_t *params = json_object_get(entry, "params");

	return json_is_string(json_object_get(entry, "method")) &&
	       (params == NULL || json_is_object(params));
}

/* NULL, or what is wrong with the document. */
static const char *
find_fault(json_t *document)
{
	json_t *subsystems = json_object_get(document, "subsystems");
	json_t *subsystem, *entry;
	size_t i, j;

	if (!json_is_array(subsystems))
		return "it has no array \"subsystems\"";
	json_array_foreach (subsystems, i, subsystem) {
		json_t *config = json_object_get(subsystem, "config");

		if (!json_is_string(json_object_get(subsystem, "subsystem")))
			return "an element of \"subsystems\" has no name \"subsystem\"";
		/* Others write null for a subsystem that has none. */
		if (config != NULL && !json_is_null(config) && !json_is_array(config))
			return "a \"config\" is not an array";
		json_array_foreach (config, j, entry) {
			if (!check_entry(entry))
				return "an element of \"config\" is not {\"method\": name, "
				       "\"params\": {...}}";
		}
	}
	return NULL;
}

static int
check_version(json_t *document, const char *path, struct errmsg *err)
{
	json_t *version = json_object_get(document, "version");

	if (version == NULL ||
	    (json_is_integer(version) && json_integer_value(version) == STATE_VERSION))
		return 0;
	return err_set(err, -ENOTSUP,
		       "%s: it is not of version %d, the one that this program knows", path,
		       STATE_VERSION);
}

static int
parse(const char *path, const char *text, size_t length, json_t **document, struct errmsg *err)
{
	json_error_t error;
	const char *fault;
	int rc;

	*document = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
	if (*document == NULL)
		return err_set(err, -EBADMSG, "%s: line %d, column %d: %s", path, error.line,
			       error.column, error.text);
	rc = check_version(*document, path, err);
	fault = find_fault(*document);
	if (rc == 0 && fault != NULL)
		rc = err_set(err, -EBADMSG, "%s: %s", path, fault);
	if (rc != 0) {
		json_decref(*document);
		*document = NULL;
	}
	return rc;
}

static int
read_all(int fd, char *text, size_t size, size_t *length)
{
	*length = 0;
	while (*length < size) {
		ssize_t got = read(fd, text + *length, size - *length);

		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		*length += (size_t)got;
	}
	return 0;
}

/* A new buffer with what is in fd. */
static int
read_file(int fd, const char *path, char **text, size_t *length, struct errmsg *err)
{
	struct stat st;
	int rc;

	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: not a regular file", path);
	if (st.st_size > (off_t)STATE_MAX_BYTES)
		return err_set(err, -EFBIG, "%s: larger than %u MiB", path, STATE_MAX_BYTES >> 20);
	*text = malloc((size_t)st.st_size + 1);
	if (*text == NULL)
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	rc = read_all(fd, *text, (size_t)st.st_size, length);
	if (rc != 0) {
		free(*text);
		err_set(err, rc, "%s: %s", path, strerror(-rc));
	}
	return rc;
}

int
document_read(const char *path, json_t **document, struct errmsg *err)
{
	/* Not to wait for the other end of a FIFO. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char *text = NULL;
	size_t length = 0;
	int rc;

	*document = NULL;
	if (fd < 0)
		return err_set(err, -errno, "%s: %s", path, strerror(errno));
	rc = read_file(fd, path, &text, &length, err);
	close(fd);
	if (rc != 0)
		return rc;
	rc = parse(path, text, length, document, err);
	free(text);
	return rc;
}

/* ---- the journal ---- */

/*
 * Formats "<path>.damaged-<n>" for the first n of which there is (free: is not) such a file. False:
 * there is none.
 */
static bool
find_damaged(const char *path, bool is_free, char name[PATH_MAX])
{
	for (int n = 1; n < DAMAGED_MAX; n++) {
		struct stat st;

		if (snprintf(name, PATH_MAX, "%s.damaged-%d", path, n) >= PATH_MAX)
			return false;
		if ((lstat(name, &st) < 0) == is_free)
			return true;
	}
	return false;
}

static int
put_aside(const char *path, struct errmsg *err)
{
	struct errmsg what = *err;
	char aside[PATH_MAX];

	if (!find_damaged(path, true, aside) || rename(path, aside) < 0)
		return err_set(
			err, -EBADMSG,
			"the state is damaged: %s; repair it, or move it away to start without "
			"any disk",
			what.text);
	return err_set(err, -EBADMSG,
		       "the state is damaged: %s; it is kept as %s: repair it and move it back, or "
		       "rename or "
		       "remove it to start without any disk",
		       what.text, aside);
}

int
state_read(const struct state_file *state, json_t **document, struct errmsg *err)
{
	char aside[PATH_MAX];
	int rc = document_read(state->path, document, err);

	if (rc == -EBADMSG)
		return put_aside(state->path, err);
	if (rc != -ENOENT)
		return rc;
	if (find_damaged(state->path, false, aside))
		return err_set(err, -EBADMSG,
			       "there is no state %s, but a damaged one is kept as %s: repair it "
			       "and move it "
			       "back, or rename or remove it to start without any disk",
			       state->path, aside);
	err_set(err, 0, "%s", "");
	return 0;
}

static int
lock(const char *path, const char *lock_path, int *lock_fd, struct errmsg *err)
{
	struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int rc;

	*lock_fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (*lock_fd < 0)
		return err_set(err, -errno, "state %s: %s: %s", path, lock_path, strerror(errno));
	if (fcntl(*lock_fd, F_OFD_SETLK, &whole) == 0)
		return 0;
	rc = -errno;
	close(*lock_fd);
	if (rc == -EAGAIN)
		return err_set(err, -EBUSY,
			       "state %s: another vhostd uses it; choose another --state", path);
	return err_set(err, rc, "state %s: %s: %s", path, lock_path, strerror(-rc));
}

/* A link stays: the file that it points to is the journal. */
static int
resolve(const char *path, char file[PATH_MAX], struct errmsg *err)
{
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISLNK(st.st_mode)) {
		snprintf(file, PATH_MAX, "%s", path);
		return 0;
	}
	if (realpath(path, file) != NULL)
		return 0;
	return err_set(err, -errno, "state %s: what it is a link to: %s", path, strerror(errno));
}

int
state_open(struct state_file *state, const char *path, struct errmsg *err)
{
	char file[PATH_MAX], lock_path[PATH_MAX];
	int rc = resolve(path, file, err);

	if (rc != 0)
		return rc;
	if (snprintf(lock_path, sizeof(lock_path), "%s.lock", file) >= (int)sizeof(lock_path))
		return err_set(err, -ENAMETOOLONG, "state %.64s...: the path is too long", path);
	rc = lock(file, lock_path, &state->lock_fd, err);
	if (rc != 0)
		return rc;
	state->path = strdup(file);
	if (state->path != NULL)
		return 0;
	close(state->lock_fd);
	return err_set(err, -ENOMEM, "out of memory");
}

void
state_close(struct state_file *state)
{
	if (state->path == NULL)
		return;
	close(state->lock_fd);
	free(state->path);
	state->path = NULL;
}

/* ---- writing ---- */

static int
write_all(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t written = write(fd, text, length);

		if (written < 0)
			return -errno;
		text += written;
		length -= (size_t)written;
	}
	return 0;
}

static int
sync_folder(const char *path)
{
	char folder[PATH_MAX];
	char *slash;
	int fd, rc;

	snprintf(folder, sizeof(folder), "%s", path);
	slash = strrchr(folder, '/');
	if (slash == NULL)
		strcpy(folder, ".");
	else
		slash[slash == folder] = '\0';
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

static int
replace(const char *path, const char *temporary, const char *text, size_t length)
{
	int fd, rc;

	unlink(temporary); /* a crash may have left one */
	fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	rc = write_all(fd, text, length);
	if (rc == 0)
		rc = write_all(fd, "\n", 1);
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	close(fd);
	if (rc == 0 && rename(temporary, path) < 0)
		rc = -errno;
	if (rc != 0) {
		unlink(temporary);
		return rc;
	}
	return sync_folder(path);
}

int
state_write(const struct state_file *state, const char *text, size_t length, struct errmsg *err)
{
	char temporary[PATH_MAX];
	int rc;

	if (snprintf(temporary, sizeof(temporary), "%s.tmp", state->path) >= (int)sizeof(temporary))
		return err_set(err, -ENAMETOOLONG, "state %.64s...: the path is too long",
			       state->path);
	rc = replace(state->path, temporary, text, length);
	if (rc == 0)
		return 0;
	return err_set(
		err, rc,
		"state %s cannot be written (%s): the change holds only until the daemon ends",
		state->path, strerror(-rc));
}
