/* SPDX-License-Identifier: BSD-3-Clause */
/* Whom the daemon runs as, and the folders that it needs as that. */
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

struct identity {
	const char *user; /* NULL: no change of user */
	bool change_group;
	uid_t uid;
	gid_t gid;
};

static int
look_up(const struct app_opts *opts, struct identity *who, struct errmsg *err)
{
	*who = (struct identity){.user = opts->user, .uid = geteuid(), .gid = getegid()};
	if (opts->user != NULL) {
		struct passwd *entry = getpwnam(opts->user);

		if (entry == NULL)
			return err_set(err, -ENOENT, "there is no user %s", opts->user);
		who->uid = entry->pw_uid;
		who->gid = entry->pw_gid;
		who->change_group = true;
	}
	if (opts->group != NULL) {
		struct group *entry = getgrnam(opts->group);

		if (entry == NULL)
			return err_set(err, -ENOENT, "there is no group %s", opts->group);
		who->gid = entry->gr_gid;
		who->change_group = true;
	}
	return 0;
}

/* A folder that is missing is made, for who; its parents are so if asked for. */
static int
make_folder(char *path, bool parents, const struct identity *who, struct errmsg *err)
{
	char *slash = strrchr(path, '/');
	struct stat st;
	int rc;

	if (path[0] == '\0' || stat(path, &st) == 0)
		return 0;
	if (parents && slash != NULL) {
		*slash = '\0';
		rc = make_folder(path, true, who, err);
		*slash = '/';
		if (rc != 0)
			return rc;
	}
	if (mkdir(path, 0755) < 0) {
		if (errno == EEXIST)
			return 0; /* somebody else's: not to be given away */
		return err_set(err, -errno, "cannot make the folder %s: %s", path, strerror(errno));
	}
	/* Not through a link that somebody put in its place meanwhile. */
	if (who->change_group && lchown(path, who->uid, who->gid) < 0)
		return err_set(err, -errno, "cannot give the folder %s away: %s", path,
			       strerror(errno));
	return 0;
}

static int
make_folder_of(const char *file, bool parents, const struct identity *who, struct errmsg *err)
{
	char path[PATH_MAX];
	char *slash;

	if (file == NULL)
		return 0;
	if (snprintf(path, sizeof(path), "%s", file) >= (int)sizeof(path))
		return err_set(err, -ENAMETOOLONG, "%.64s...: the path is too long", file);
	slash = strrchr(path, '/');
	if (slash == NULL)
		return 0;
	*slash = '\0';
	return make_folder(path, parents, who, err);
}

static int
make_folders(const struct app_opts *opts, const struct identity *who, struct errmsg *err)
{
	char path[PATH_MAX];
	int rc = 0;

	if (opts->socket_dir != NULL) {
		if (snprintf(path, sizeof(path), "%s", opts->socket_dir) >= (int)sizeof(path))
			return err_set(err, -ENAMETOOLONG, "%.64s...: the path is too long",
				       opts->socket_dir);
		rc = make_folder(path, false, who, err);
	}
	if (rc == 0)
		rc = make_folder_of(opts->rpc_socket, false, who, err);
	if (rc == 0)
		rc = make_folder_of(opts->state_file, true, who, err);
	return rc;
}

int
identity_assume(const struct app_opts *opts, struct errmsg *err)
{
	struct identity who;
	int rc = look_up(opts, &who, err);

	if (rc == 0)
		rc = make_folders(opts, &who, err);
	if (rc != 0)
		return rc;
	/*
	 * DPDK makes controllers' sockets as the umask has it, and who connects must have write
	 * access.
	 */
	if (opts->group != NULL)
		umask(0007);
	/*
	 * Supplementary groups are those of the new user, or none but the new group; only root may
	 * change them.
	 */
	if (who.change_group && geteuid() == 0) {
		rc = who.user != NULL ? initgroups(who.user, who.gid) : setgroups(1, &who.gid);
		if (rc < 0)
			return err_set(err, -errno, "cannot take the groups: %s", strerror(errno));
	}
	if (who.change_group && setresgid(who.gid, who.gid, who.gid) < 0)
		return err_set(err, -errno, "cannot become group %u: %s", who.gid, strerror(errno));
	if (who.user != NULL && setresuid(who.uid, who.uid, who.uid) < 0)
		return err_set(err, -errno, "cannot become user %s: %s", who.user, strerror(errno));
	return 0;
}
