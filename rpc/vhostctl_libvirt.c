/* SPDX-License-Identifier: BSD-3-Clause */
/* libvirt xml, attach, detach, check, list; provision: what their arguments are, and the short ones. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "vhost.h"
#include "vhostctl_libvirt.h"

#define DEFAULT_TARGET "vdb"

/* Takes object. */
static void
print_object(json_t *object)
{
	ctl_print_json(object);
	json_decref(object);
}

/* ---- xml ---- */

/* Explains, in comments: what is printed is one XML document, as virsh attach-device takes it. */
static const char disk_explanation[] =
	"<!--\n"
	"  In <domain>, so that the daemon can reach the guest's memory:\n"
	"    " LIBVIRT_MEMORY "\n"
	"  In <devices>, the disk:\n"
	"-->\n";

static const char scsi_explanation[] =
	"<!--\n"
	"  libvirt has no element for virtio-scsi over vhost-user (<hostdev type='scsi_host'> is "
	"for\n"
	"  the kernel's vhost), so QEMU gets the device on its command line. In the domain (virsh\n"
	"  edit): the attribute xmlns:qemu of <domain>, <memoryBacking>, and <qemu:commandline> at "
	"the\n"
	"  end, in which each further controller has another addr, of a slot of pcie.0 that no "
	"device\n"
	"  of the domain has (pci.0 where the machine is not q35). With QEMU 8.2 or later, add\n"
	"  ',reconnect=1' behind the path, so that the disks come back after the daemon's "
	"restart.\n"
	"-->\n";

static enum vhostctl_status
print_xml(const struct vhostctl_opts *opts, const struct libvirt_args *args, struct errmsg *err)
{
	enum vhostctl_status status;
	json_t *ctrlr;
	bool is_scsi;
	char *xml;

	status = libvirt_find_ctrlr(opts, args->ctrlr, &ctrlr, err);
	if (status != STATUS_OK)
		return status;
	is_scsi = libvirt_is_scsi(ctrlr);
	if (!is_scsi && !libvirt_can_keep(libvirt_socket_of(ctrlr)))
		fprintf(stderr, "vhostctl: note: vhost %s: " LIBVIRT_BAD_PATH "\n", args->ctrlr);
	if (is_scsi) {
		xml = libvirt_scsi_xml(args->ctrlr, libvirt_socket_of(ctrlr), args->queues);
	} else {
		xml = libvirt_disk_xml(libvirt_socket_of(ctrlr),
				       args->target != NULL ? args->target : DEFAULT_TARGET,
				       args->queues);
	}
	json_decref(ctrlr);
	if (xml == NULL)
		return err_set(err, STATUS_FAILED, "xml: no memory");
	if (opts->json) {
		print_object(json_pack("{s:s, s:s}", is_scsi ? "domain" : "disk", xml,
				       "memoryBacking", LIBVIRT_MEMORY));
	} else {
		printf("%s%s\n", is_scsi ? scsi_explanation : disk_explanation, xml);
	}
	free(xml);
	return STATUS_OK;
}

/* ---- attach, detach ---- */

static void
print_attached(const struct vhostctl_opts *opts, const struct libvirt_domain *domain,
	       const char *ctrlr, const char *socket, const char *target)
{
	if (opts->json)
		print_object(json_pack("{s:s, s:s, s:s, s:s, s:s}", "domain", domain->name, "ctrlr",
				       ctrlr, "target", target, "socket", socket, "state",
				       domain->live != NULL ? "running" : "off"));
	else
		printf("%s has %s as %s%s\n", domain->name, ctrlr, target,
		       domain->live == NULL ? " from its next start on" : "");
}

static enum vhostctl_status
attach(const struct vhostctl_opts *opts, const struct libvirt_args *args, struct errmsg *err)
{
	struct libvirt_domain domain = {0};
	enum vhostctl_status status;
	json_t *ctrlr;
	char *target = NULL;

	status = libvirt_find_ctrlr(opts, args->ctrlr, &ctrlr, err);
	if (status == STATUS_OK)
		status = libvirt_open(args, &domain, err);
	if (status == STATUS_OK)
		status = libvirt_attach(args, &domain, ctrlr, args->persistent, &target, err);
	if (status == STATUS_OK)
		print_attached(opts, &domain, args->ctrlr, libvirt_socket_of(ctrlr), target);
	free(target);
	libvirt_close(&domain);
	json_decref(ctrlr);
	return status;
}

/* A disk may also be named by its socket: the controller, or the daemon, need not be there. */
static enum vhostctl_status
detach(const struct vhostctl_opts *opts, const struct libvirt_args *args, struct errmsg *err)
{
	bool is_socket = strchr(args->ctrlr, '/') != NULL;
	const char *socket = args->ctrlr;
	struct libvirt_domain domain = {0};
	enum vhostctl_status status = STATUS_OK;
	json_t *ctrlr = NULL;

	if (!is_socket)
		status = libvirt_find_ctrlr(opts, args->ctrlr, &ctrlr, err);
	if (!is_socket && status == STATUS_OK)
		socket = libvirt_socket_of(ctrlr);
	if (status == STATUS_OK)
		status = libvirt_open(args, &domain, err);
	if (status == STATUS_OK)
		status = libvirt_detach(&domain, socket, opts->timeout_s, err);
	if (status == STATUS_OK && opts->json)
		print_object(json_pack("{s:s, s:s?, s:s}", "domain", domain.name, "ctrlr",
				       is_socket ? NULL : args->ctrlr, "socket", socket));
	else if (status == STATUS_OK)
		printf("%s has %s no more\n", domain.name, args->ctrlr);
	libvirt_close(&domain);
	json_decref(ctrlr);
	return status;
}

/* ---- list ---- */

/* Adds a row for each disk on the controller's socket, or one that says that there is none. */
static void
add_rows(json_t *rows, json_t *ctrlr, json_t *disks)
{
	json_t *name = json_object_get(ctrlr, "ctrlr");
	const char *socket = libvirt_socket_of(ctrlr);
	size_t before = json_array_size(rows);
	json_t *disk;
	size_t i;

	json_array_foreach (disks, i, disk) {
		if (!libvirt_same_socket(json_string_value(json_object_get(disk, "socket")),
					 socket))
			continue;
		json_array_append_new(
			rows,
			json_pack("{s:O, s:O, s:s, s:O, s:s}", "ctrlr", name, "domain",
				  json_object_get(disk, "domain"), "state",
				  json_is_true(json_object_get(disk, "running")) ? "running"
										 : "off",
				  "target", json_object_get(disk, "target"), "socket", socket));
	}
	if (json_array_size(rows) == before)
		json_array_append_new(rows,
				      json_pack("{s:O, s:n, s:n, s:n, s:s}", "ctrlr", name,
						"domain", "state", "target", "socket", socket));
}

/* Also when it fails: what could be seen. */
static enum vhostctl_status
list(const struct vhostctl_opts *opts, const struct libvirt_args *args, struct errmsg *err)
{
	static const struct rpc_schema schema = {.columns = "ctrlr,domain,state,target,socket"};
	json_t *ctrlrs, *ctrlr, *disks, *rows;
	virConnectPtr connection;
	enum vhostctl_status status = ctl_call(opts, "vhost_get_controllers", NULL, &ctrlrs, err);
	size_t i;

	if (status != STATUS_OK)
		return status;
	status = libvirt_connect(args, &connection, err);
	if (status != STATUS_OK) {
		json_decref(ctrlrs);
		return status;
	}
	status = libvirt_all_disks(connection, &disks, err);
	rows = json_array();
	json_array_foreach (ctrlrs, i, ctrlr) {
		if (libvirt_socket_of(ctrlr) != NULL)
			add_rows(rows, ctrlr, disks);
	}
	if (opts->json)
		ctl_print_json(rows);
	else
		ctl_print_result(&schema, rows);
	json_decref(rows);
	json_decref(disks);
	LIBVIRT_ASK(virConnectClose(connection));
	json_decref(ctrlrs);
	return status;
}

/* ---- arguments ---- */

enum option {
	CONNECT = 1 << 0,
	TARGET = 1 << 1,
	QUEUES = 1 << 2,
	PERSISTENT = 1 << 3,
	SIZE = 1 << 4,
	DOMAIN = 1 << 5,
	NAME = 1 << 6,
	DIR = 1 << 7,
};

#define ARG(member) offsetof(struct libvirt_args, member)

static const struct {
	const char *name;
	enum option option;
	size_t offset;
} options[] = {
	{"--connect", CONNECT, ARG(connect)}, {"--target", TARGET, ARG(target)},
	{"--queues", QUEUES, ARG(queues)},    {"--persistent", PERSISTENT, ARG(persistent)},
	{"--size", SIZE, ARG(size)},          {"--domain", DOMAIN, ARG(domain)},
	{"--name", NAME, ARG(ctrlr)},         {"--dir", DIR, ARG(dir)},
};

struct verb {
	const char *name;
	const char *usage;
	unsigned int options;
	size_t operands[2];     /* where they go in struct libvirt_args */
	int required, accepted; /* how many of them */
	enum vhostctl_status (*run)(const struct vhostctl_opts *opts,
				    const struct libvirt_args *args, struct errmsg *err);
};

static const struct verb verbs[] = {
	{"xml",
	 "libvirt xml CTRLR [--target vdb] [--queues N]",
	 TARGET | QUEUES,
	 {ARG(ctrlr)},
	 1,
	 1,
	 print_xml},
	{"attach",
	 "libvirt attach DOMAIN CTRLR [--persistent] [--target vdb] [--queues N] [--connect URI]",
	 PERSISTENT | TARGET | QUEUES | CONNECT,
	 {ARG(domain), ARG(ctrlr)},
	 2,
	 2,
	 attach},
	{"detach",
	 "libvirt detach DOMAIN CTRLR|SOCKET [--connect URI]",
	 CONNECT,
	 {ARG(domain), ARG(ctrlr)},
	 2,
	 2,
	 detach},
	{"check",
	 "libvirt check DOMAIN [CTRLR] [--connect URI]",
	 CONNECT,
	 {ARG(domain), ARG(ctrlr)},
	 1,
	 2,
	 libvirt_check},
	{"list", "libvirt list [--connect URI]", CONNECT, {0}, 0, 0, list},
};

static const struct verb provision = {
	"provision",
	"provision --size 10G --domain D --name data1 [--dir FOLDER] [--target vdb] [--queues N] "
	"[--connect URI]",
	SIZE | DOMAIN | NAME | DIR | TARGET | QUEUES | CONNECT,
	{0},
	0,
	0,
	libvirt_provision,
};

static const char **
text_at(struct libvirt_args *args, size_t offset)
{
	return (const char **)((char *)args + offset);
}

static bool
is_utf8(const char *text)
{
	json_t *string = json_string(text);

	json_decref(string);
	return string != NULL;
}

/*
 * Takes "--name VALUE" or "--name=VALUE" at *words into args, and leaves *words behind it. False:
 * it is none of the verb's, has no value, or stands there for the second time.
 */
static bool
take_option(const struct verb *verb, char ***words, struct libvirt_args *args)
{
	const char *word = *(*words)++;
	size_t len = strcspn(word, "=");

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		const char **value = text_at(args, options[i].offset);

		if (strlen(options[i].name) != len || strncmp(options[i].name, word, len) != 0 ||
		    !(verb->options & options[i].option))
			continue;
		if (options[i].option == PERSISTENT) {
			args->persistent = true;
			return word[len] == '\0';
		}
		if (*value != NULL)
			return false;
		*value = word[len] == '=' ? word + len + 1 : **words;
		*words += *value != NULL && word[len] != '=';
		return *value != NULL && **value != '\0' && is_utf8(*value);
	}
	return false;
}

static bool
queues_are_right(const char *text)
{
	char *end;
	long count = text != NULL ? strtol(text, &end, 10) : 1;

	return text == NULL ||
	       (*text >= '1' && *text <= '9' && *end == '\0' && count <= VHOST_MAX_QUEUES);
}

static enum vhostctl_status
run_verb(const struct verb *verb, const struct vhostctl_opts *opts, char **words,
	 struct errmsg *err)
{
	struct libvirt_args args = {0};
	int operands = 0;

	while (*words != NULL) {
		const char *word = *words;

		if (strncmp(word, "--", 2) != 0) {
			if (operands == verb->accepted || *word == '\0' || !is_utf8(word))
				return err_set(err, STATUS_USAGE, "usage: vhostctl %s",
					       verb->usage);
			*text_at(&args, verb->operands[operands++]) = word;
			words++;
		} else if (!take_option(verb, &words, &args)) {
			return err_set(err, STATUS_USAGE,
				       "option '%s' is unknown, given twice or has no value; "
				       "usage: vhostctl %s",
				       word, verb->usage);
		}
	}
	if (operands < verb->required)
		return err_set(err, STATUS_USAGE, "usage: vhostctl %s", verb->usage);
	if (!queues_are_right(args.queues))
		return err_set(err, STATUS_USAGE, "--queues must be 1 to %d", VHOST_MAX_QUEUES);
	libvirt_limit(opts, "");
	return verb->run(opts, &args, err);
}

enum vhostctl_status
ctl_libvirt(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	for (size_t i = 0; args[0] != NULL && i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(args[0], verbs[i].name) == 0)
			return run_verb(&verbs[i], opts, args + 1, err);
	}
	return err_set(err, STATUS_USAGE,
		       "usage: vhostctl libvirt xml | attach | detach | check | list ...");
}

enum vhostctl_status
ctl_provision(const struct vhostctl_opts *opts, char **args, struct errmsg *err)
{
	return run_verb(&provision, opts, args, err);
}
