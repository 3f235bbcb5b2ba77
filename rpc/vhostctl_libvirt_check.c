/* SPDX-License-Identifier: BSD-3-Clause */
/* libvirt check: what stands between a domain and its disks, as far as it can be seen from outside. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "vhost.h"
#include "vhostctl_libvirt.h"

#define GROUPS_MAX     256
#define APPARMOR_LOCAL "/etc/apparmor.d/local/abstractions/libvirt-qemu"

/* What libvirt says of itself: the security drivers that it uses. */
struct context {
	const struct vhostctl_opts *opts;
	struct libvirt_domain domain;
	xmlDoc *state;        /* the live one, or the definition; the domain's */
	xmlDoc *capabilities; /* NULL: unknown */
	json_t *all_disks;
	struct errmsg unseen; /* empty, or why all_disks is not of all domains */
	json_t *findings;
};

enum result { FINE, NOTE, MISSING };

__attribute__((format(printf, 4, 5))) static void
tell(struct context *context, const char *check, enum result result, const char *format, ...)
{
	static const char *const texts[] = {[FINE] = "ok", [NOTE] = "note", [MISSING] = "MISSING"};
	va_list arguments;

	va_start(arguments, format);
	json_array_append_new(context->findings,
			      json_pack("{s:s, s:s, s:o}", "check", check, "result", texts[result],
					"detail", json_vsprintf(format, arguments)));
	va_end(arguments);
}

/* ---- the domain ---- */

static void
check_version(struct context *context)
{
	struct errmsg err = {0};
	json_t *answer;
	const char *version;

	if (ctl_call(context->opts, "spdk_get_version", NULL, &answer, &err) != STATUS_OK) {
		tell(context, "vhostd", MISSING, "%s", err.text);
		return;
	}
	version = json_string_value(json_object_get(answer, "version"));
	if (version == NULL || strcmp(version, "vhostd v" VHOSTD_VERSION) != 0)
		tell(context, "vhostd", NOTE, "%s, and this is vhostctl " VHOSTD_VERSION,
		     version != NULL ? version : "an unknown version");
	else
		tell(context, "vhostd", FINE, "%s", version);
	json_decref(answer);
}

static void
check_domain(struct context *context)
{
	const struct libvirt_domain *domain = &context->domain;

	tell(context, "domain", FINE, "%s%s", domain->live != NULL ? "running" : "off",
	     domain->config != NULL ? "" : ", transient");
	if (libvirt_memory_is_shared(context->state))
		tell(context, "shared memory", FINE, "the daemon can map it");
	else if (domain->live != NULL && libvirt_memory_is_shared(domain->config))
		tell(context, "shared memory", MISSING,
		     "in the definition, but not yet in the running guest: shut it down and start "
		     "it again");
	else
		tell(context, "shared memory", MISSING, "in <domain>: " LIBVIRT_MEMORY);
	if (domain->live == NULL)
		return;
	if (libvirt_has_free_port(domain->live))
		tell(context, "live attach", FINE, "there is a free PCI slot");
	else
		tell(context, "live attach", NOTE,
		     "no PCIe port is free: add <controller type='pci' model='pcie-root-port'/> "
		     "for each disk to come, and start the guest anew");
}

/* ---- who may connect ---- */

/* "+64055:+106" or "libvirt-qemu:kvm" */
static int
parse_owner(const char *label, uid_t *uid, gid_t *gid)
{
	const char *colon = strchr(label, ':');
	char user[64];
	const struct passwd *passwd;
	const struct group *group;

	if (colon == NULL || (size_t)(colon - label) >= sizeof(user))
		return -EINVAL;
	snprintf(user, sizeof(user), "%.*s", (int)(colon - label), label);
	passwd = getpwnam(user);
	group = getgrnam(colon + 1);
	*uid = passwd != NULL ? passwd->pw_uid : (uid_t)strtoul(user + (user[0] == '+'), NULL, 10);
	*gid = group != NULL ? group->gr_gid
			     : (gid_t)strtoul(colon + 1 + (colon[1] == '+'), NULL, 10);
	return 0;
}

/* Whom libvirt runs QEMU as. -ENOENT: it does not say. */
static int
find_owner(const struct context *context, uid_t *uid, gid_t *gid)
{
	char *label = libvirt_text_at(context->state,
				      "/domain/seclabel[@model='dac'][not(@type='none')]/label");
	int rc = -ENOENT;

	if (label == NULL || *label == '\0') {
		free(label);
		label = libvirt_text_at(
			context->capabilities,
			"/capabilities/host/secmodel[model='dac']/baselabel[@type='kvm']");
	}
	if (label != NULL && *label != '\0')
		rc = parse_owner(label, uid, gid);
	free(label);
	return rc;
}

/* Without capabilities, as libvirt starts QEMU, also as root. Async-signal-safe. */
static int
become_and_look(const char *path, uid_t uid, gid_t gid, const gid_t *groups, int count)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};

	if (geteuid() == 0 &&
	    (setgroups(count, groups) != 0 || setresgid(gid, gid, gid) != 0 ||
	     setresuid(uid, uid, uid) != 0 || syscall(SYS_capset, &header, none) != 0))
		return errno;
	return faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0 ? 0 : errno;
}

/* The user's own groups and that one, as libvirt gives them to QEMU. Their number. */
static int
collect_groups(uid_t uid, gid_t gid, gid_t groups[GROUPS_MAX])
{
	const struct passwd *passwd = getpwuid(uid);
	int count = GROUPS_MAX - 1;

	if (passwd == NULL || getgrouplist(passwd->pw_name, passwd->pw_gid, groups, &count) < 0)
		count = 0;
	groups[count] = gid;
	return count + 1;
}

/* 0, or a positive errno: why that user may not connect to the socket. */
static int
look_as(const char *path, uid_t uid, gid_t gid)
{
	gid_t groups[GROUPS_MAX];
	int count = collect_groups(uid, gid, groups), status;
	pid_t child = fork();

	if (child == 0)
		_exit(become_and_look(path, uid, gid, groups, count));
	if (child < 0)
		return errno;
	while (waitpid(child, &status, 0) < 0) {
		if (errno != EINTR)
			return errno;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

static void
tell_denied(struct context *context, const char *socket, uid_t uid, gid_t gid, int problem)
{
	const struct group *group = getgrgid(gid);
	const struct passwd *passwd = getpwuid(uid);
	char name[32];

	snprintf(name, sizeof(name), "%u", (unsigned int)gid);
	tell(context, "permission", MISSING,
	     "%s: QEMU runs as %s, which may not connect: %s (vhostd --group %s lets it)", socket,
	     passwd != NULL ? passwd->pw_name : "another user", strerror(problem),
	     group != NULL ? group->gr_name : name);
}

static void
check_permission(struct context *context, const char *socket)
{
	uid_t uid;
	gid_t gid;
	int problem;

	if (access(socket, F_OK) != 0 && errno == ENOENT) {
		tell(context, "permission", MISSING, "%s: does not exist", socket);
		return;
	}
	if (find_owner(context, &uid, &gid) != 0) {
		tell(context, "permission", NOTE, "%s: libvirt does not say whom QEMU runs as",
		     socket);
		return;
	}
	if (geteuid() != 0 && geteuid() != uid) {
		tell(context, "permission", NOTE, "%s: only root can see whether QEMU may connect",
		     socket);
		return;
	}
	problem = look_as(socket, uid, gid);
	if (problem != 0)
		tell_denied(context, socket, uid, gid, problem);
	else
		tell(context, "permission", FINE, "%s: QEMU may connect", socket);
}

/* ---- labels ---- */

/* Whether a file that administrators write names the folder of the socket. */
static bool
file_names_folder_of(const char *file, const char *socket)
{
	size_t len = strrchr(socket, '/') - socket + 1;
	bool found = false;
	char *line = NULL;
	size_t size = 0;
	FILE *stream = fopen(file, "re");

	while (stream != NULL && !found && getline(&line, &size, stream) >= 0) {
		const char *rule = line + strspn(line, " \t\"");

		found = strncmp(rule, socket, len) == 0;
	}
	free(line);
	if (stream != NULL)
		fclose(stream);
	return found;
}

static bool
is_confined_by(const struct context *context, const char *model)
{
	char path[128];

	snprintf(path, sizeof(path), "/domain/seclabel[@type='none'][@model='%s' or not(@model)]",
		 model);
	if (libvirt_count(context->state, path) > 0)
		return false;
	snprintf(path, sizeof(path), "/capabilities/host/secmodel[model='%s']", model);
	return libvirt_count(context->capabilities, path) > 0;
}

static void
check_apparmor(struct context *context, const char *socket)
{
	int folder_len = (int)(strrchr(socket, '/') - socket);

	if (!is_confined_by(context, "apparmor"))
		return;
	if (file_names_folder_of(APPARMOR_LOCAL, socket))
		tell(context, "AppArmor", FINE, APPARMOR_LOCAL " names %.*s", folder_len, socket);
	else
		tell(context, "AppArmor", MISSING,
		     "QEMU may not connect to %s: add the line '%.*s/* rw,' to " APPARMOR_LOCAL
		     ", and start the guest anew",
		     socket, folder_len, socket);
}

static void
check_selinux(struct context *context, const char *socket)
{
	char label[256];
	ssize_t len;

	if (!is_confined_by(context, "selinux"))
		return;
	len = lgetxattr(socket, "security.selinux", label, sizeof(label) - 1);
	label[len > 0 ? len : 0] = '\0';
	tell(context, "SELinux", NOTE,
	     "%s has the label '%s': if QEMU is refused, ausearch -m avc -c qemu-kvm names the "
	     "rule "
	     "that is missing",
	     socket, label);
}

/* ---- disks ---- */

static void
check_queues(struct context *context, const char *name, json_t *disk)
{
	const char *queues = json_string_value(json_object_get(disk, "queues"));
	char *cpus = libvirt_text_at(context->state, "/domain/vcpu");
	long count = queues != NULL ? strtol(queues, NULL, 10) : 0;
	long cpu_count = cpus != NULL ? strtol(cpus, NULL, 10) : 0;

	if (count == 0 && cpu_count <= VHOST_MAX_QUEUES)
		tell(context, "queues", FINE, "%s: one for each of %ld CPUs", name, cpu_count);
	else if (count == 0 || count > VHOST_MAX_QUEUES)
		tell(context, "queues", MISSING, "%s: at most %d: <driver ... queues='%d'/>", name,
		     VHOST_MAX_QUEUES, VHOST_MAX_QUEUES);
	else if (count < cpu_count)
		tell(context, "queues", NOTE, "%s: %ld for %ld CPUs: one for each is fastest", name,
		     count, cpu_count);
	else
		tell(context, "queues", FINE, "%s: %ld", name, count);
	free(cpus);
}

static void
check_reconnect(struct context *context, const char *name, const char *socket, json_t *disk)
{
	const struct libvirt_domain *domain = &context->domain;
	json_t *lasting = libvirt_disks(domain->config);

	if (!json_is_true(json_object_get(disk, "reconnect")))
		tell(context, "reconnect", MISSING,
		     "%s: the disk does not come back after a restart of the daemon: add "
		     "<reconnect enabled='yes' timeout='1'/> to its <source>",
		     name);
	else if (domain->live != NULL && libvirt_disk_on(lasting, socket) == NULL &&
		 libvirt_forgets_reconnect(domain->connection))
		tell(context, "reconnect", NOTE, "%s: " LIBVIRT_NO_RECONNECT, name);
	else
		tell(context, "reconnect", FINE, "%s: it comes back after the daemon's restart",
		     name);
	json_decref(lasting);
}

/* Other domains on the same socket. */
static void
check_others(struct context *context, const char *name, const char *socket)
{
	json_t *disk;
	size_t i;

	if (context->unseen.text[0] != '\0')
		tell(context, "use", NOTE, "%s: whether another domain has it cannot be seen: %s",
		     name, context->unseen.text);
	json_array_foreach (context->all_disks, i, disk) {
		const char *domain = json_string_value(json_object_get(disk, "domain"));

		if (strcmp(domain, context->domain.name) == 0 ||
		    !libvirt_same_socket(json_string_value(json_object_get(disk, "socket")),
					 socket))
			continue;
		tell(context, "use",
		     json_is_true(json_object_get(disk, "running")) ? MISSING : NOTE,
		     "%s: domain %s has it too; only one can be connected", name, domain);
	}
}

/* One that the domain has (disk), or may get (disk NULL). */
static void
check_ctrlr(struct context *context, const char *name, const char *socket, json_t *disk)
{
	const char *target = json_string_value(json_object_get(disk, "target"));

	if (socket[0] != '/') {
		tell(context, "controller", MISSING, "'%s' is no path of a socket", socket);
		return;
	}
	tell(context, "controller", FINE, "%s is %s", name,
	     target != NULL ? target : "not attached");
	check_permission(context, socket);
	check_apparmor(context, socket);
	check_selinux(context, socket);
	if (disk != NULL && json_object_get(disk, "xml") != NULL) {
		check_queues(context, name, disk);
		check_reconnect(context, name, socket, disk);
	}
	check_others(context, name, socket);
}

/* The controller on that socket, borrowed. */
static json_t *
ctrlr_on(json_t *ctrlrs, const char *socket)
{
	json_t *ctrlr;
	size_t i;

	json_array_foreach (ctrlrs, i, ctrlr) {
		const char *path = libvirt_socket_of(ctrlr);

		if (path != NULL && libvirt_same_socket(path, socket))
			return ctrlr;
	}
	return NULL;
}

static void
check_all_disks(struct context *context)
{
	json_t *disks = libvirt_disks(context->state);
	json_t *ctrlrs, *ctrlr, *disk;
	struct errmsg err = {0};
	size_t i;

	if (json_array_size(disks) == 0)
		tell(context, "controller", NOTE, "the domain has no vhost-user disk");
	if (ctl_call(context->opts, "vhost_get_controllers", NULL, &ctrlrs, &err) != STATUS_OK)
		ctrlrs = NULL;
	json_array_foreach (disks, i, disk) {
		const char *socket = json_string_value(json_object_get(disk, "socket"));
		const char *target = json_string_value(json_object_get(disk, "target"));

		ctrlr = ctrlr_on(ctrlrs, socket);
		if (ctrlr != NULL)
			check_ctrlr(context, json_string_value(json_object_get(ctrlr, "ctrlr")),
				    socket, disk);
		else
			tell(context, "controller", MISSING, "%s: no controller has the socket %s",
			     target, socket);
	}
	json_decref(ctrlrs);
	json_decref(disks);
}

static void
check_one(struct context *context, const char *name)
{
	json_t *disks = libvirt_disks(context->state);
	struct errmsg err = {0};
	json_t *ctrlr;

	if (libvirt_find_ctrlr(context->opts, name, &ctrlr, &err) != STATUS_OK) {
		tell(context, "controller", MISSING, "%s", err.text);
	} else {
		const char *socket = libvirt_socket_of(ctrlr);

		check_ctrlr(context, name, socket, libvirt_disk_on(disks, socket));
	}
	json_decref(ctrlr);
	json_decref(disks);
}

/* ---- all of it ---- */

static enum vhostctl_status
report(const struct context *context, struct errmsg *err)
{
	static const struct rpc_schema schema = {.columns = "check,result,detail"};
	json_t *finding;
	int missing = 0;
	size_t i;

	json_array_foreach (context->findings, i, finding)
		missing += strcmp(json_string_value(json_object_get(finding, "result")),
				  "MISSING") == 0;
	if (context->opts->json)
		ctl_print_json(context->findings);
	else
		ctl_print_result(&schema, context->findings);
	if (missing > 0)
		return err_set(err, STATUS_FAILED, "domain %s: %d of these %s to be mended",
			       context->domain.name, missing, missing == 1 ? "has" : "have");
	return STATUS_OK;
}

enum vhostctl_status
libvirt_check(const struct vhostctl_opts *opts, const struct libvirt_args *args, struct errmsg *err)
{
	struct context context = {.opts = opts};
	enum vhostctl_status status = libvirt_open(args, &context.domain, err);
	char *capabilities = NULL;

	if (status == STATUS_OK) {
		capabilities = LIBVIRT_ASK(virConnectGetCapabilities(context.domain.connection));
		context.capabilities = capabilities != NULL ? libvirt_parse(capabilities) : NULL;
		context.state =
			context.domain.live != NULL ? context.domain.live : context.domain.config;
		libvirt_all_disks(context.domain.connection, &context.all_disks, &context.unseen);
		context.findings = json_array();
		check_version(&context);
		check_domain(&context);
		if (args->ctrlr != NULL)
			check_one(&context, args->ctrlr);
		else
			check_all_disks(&context);
		status = report(&context, err);
	}
	json_decref(context.findings);
	json_decref(context.all_disks);
	xmlFreeDoc(context.capabilities);
	free(capabilities);
	libvirt_close(&context.domain);
	return status;
}
