/* SPDX-License-Identifier: BSD-3-Clause */
/* Domains and their disks, through libvirt's API. */
#include <libvirt/virterror.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vhostctl_libvirt.h"

#define POLL_MS           100
#define RECONNECT_VERSION 9001000 /* libvirt 9.1.0 */

/* ---- waiting for libvirt ---- */

static struct {
	unsigned int seconds;
	char message[ERRMSG_MAX]; /* when they are over */
} limit;

/* On any thread: libvirt has some. */
static void
give_up(int number)
{
	(void)number;
	(void)!write(STDERR_FILENO, limit.message, strlen(limit.message));
	_exit(STATUS_FAILED);
}

void
libvirt_limit(const struct vhostctl_opts *opts, const char *consequence)
{
	const struct sigaction action = {.sa_handler = give_up};
	sigset_t alarms;

	limit.seconds = (unsigned int)opts->timeout_s;
	snprintf(limit.message, sizeof(limit.message),
		 "vhostctl: libvirt: no answer within %u s%s\n", limit.seconds, consequence);
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	sigaction(SIGALRM, &action, NULL);
	sigprocmask(SIG_UNBLOCK, &alarms, NULL);
}

void
libvirt_begin_call(void)
{
	alarm(limit.seconds);
}

void
libvirt_end_call(void)
{
	alarm(0);
}

/* ---- domains ---- */

/* libvirt would print its errors by itself. */
static void
be_quiet(void *data, virErrorPtr error)
{
	(void)data;
	(void)error;
}

enum vhostctl_status
libvirt_connect(const struct libvirt_args *args, virConnectPtr *connection, struct errmsg *err)
{
	virSetErrorFunc(NULL, be_quiet);
	*connection = LIBVIRT_ASK(virConnectOpen(args->connect));
	if (*connection == NULL)
		return err_set(err, STATUS_FAILED,
			       "libvirt: %s (does libvirtd run? --connect or "
			       "$LIBVIRT_DEFAULT_URI says which)",
			       virGetLastErrorMessage());
	return STATUS_OK;
}

/* flags: of virDomainGetXMLDesc(). NULL: the domain has no such state, or is gone. */
static xmlDoc *
read_domain(virDomainPtr handle, unsigned int flags)
{
	char *text = LIBVIRT_ASK(virDomainGetXMLDesc(handle, flags));
	xmlDoc *doc = text != NULL ? libvirt_parse(text) : NULL;

	free(text);
	return doc;
}

static bool
is_active(virDomainPtr handle)
{
	return LIBVIRT_ASK(virDomainIsActive(handle)) == 1;
}

static bool
is_persistent(virDomainPtr handle)
{
	return LIBVIRT_ASK(virDomainIsPersistent(handle)) == 1;
}

static xmlDoc *
read_live(virDomainPtr handle)
{
	return is_active(handle) ? read_domain(handle, 0) : NULL;
}

/* Sets each to NULL where there is no such state, also of a domain that is gone by now. */
static enum vhostctl_status
read_states(virDomainPtr handle, xmlDoc **live, xmlDoc **config, struct errmsg *err)
{
	*live = read_live(handle);
	*config = is_persistent(handle) ? read_domain(handle, VIR_DOMAIN_XML_INACTIVE) : NULL;
	if ((*live == NULL && is_active(handle)) || (*config == NULL && is_persistent(handle)))
		return err_set(err, STATUS_FAILED, "domain %s: what libvirt says of it is not XML",
			       virDomainGetName(handle));
	return STATUS_OK;
}

enum vhostctl_status
libvirt_open(const struct libvirt_args *args, struct libvirt_domain *domain, struct errmsg *err)
{
	enum vhostctl_status status;

	*domain = (struct libvirt_domain){0};
	status = libvirt_connect(args, &domain->connection, err);
	if (status != STATUS_OK)
		return status;
	domain->handle = LIBVIRT_ASK(virDomainLookupByName(domain->connection, args->domain));
	if (domain->handle == NULL)
		domain->handle =
			LIBVIRT_ASK(virDomainLookupByUUIDString(domain->connection, args->domain));
	if (domain->handle == NULL) {
		char *uri = LIBVIRT_ASK(virConnectGetURI(domain->connection));

		status = err_set(err, STATUS_FAILED,
				 "domain %s: libvirt (%s) has no domain of that name", args->domain,
				 uri != NULL ? uri : "?");
		free(uri);
		return status;
	}
	domain->name = virDomainGetName(domain->handle);
	status = read_states(domain->handle, &domain->live, &domain->config, err);
	if (status == STATUS_OK && domain->live == NULL && domain->config == NULL)
		status = err_set(err, STATUS_FAILED, "domain %s: %s", domain->name,
				 virGetLastErrorMessage());
	return status;
}

void
libvirt_close(struct libvirt_domain *domain)
{
	xmlFreeDoc(domain->live);
	xmlFreeDoc(domain->config);
	if (domain->handle != NULL)
		virDomainFree(domain->handle);
	if (domain->connection != NULL)
		LIBVIRT_ASK(virConnectClose(domain->connection));
}

/* ---- who has what ---- */

/* Adds what one state of a domain has, but for the sockets that are in `all` from it already. */
static void
add_disks(json_t *all, size_t first, const char *name, xmlDoc *state, bool running)
{
	json_t *disks = libvirt_disks(state);
	json_t *disk, *seen;
	size_t i, k;

	json_array_foreach (disks, i, disk) {
		const char *socket = json_string_value(json_object_get(disk, "socket"));
		bool known = false;

		for (k = first; !known && k < json_array_size(all); k++) {
			seen = json_object_get(json_array_get(all, k), "socket");
			known = strcmp(json_string_value(seen), socket) == 0;
		}
		if (known)
			continue;
		json_object_set_new(disk, "domain", json_string(name));
		json_object_set_new(disk, "running", json_boolean(running));
		json_array_append(all, disk);
	}
	json_decref(disks);
}

enum vhostctl_status
libvirt_all_disks(virConnectPtr connection, json_t **disks, struct errmsg *err)
{
	enum vhostctl_status status = STATUS_OK;
	virDomainPtr *domains = NULL;
	int count = LIBVIRT_ASK(virConnectListAllDomains(connection, &domains, 0));

	*disks = json_array();
	if (count < 0)
		status = err_set(err, STATUS_FAILED, "libvirt: %s", virGetLastErrorMessage());
	for (int i = 0; i < count; i++) {
		size_t first = json_array_size(*disks);
		xmlDoc *live, *config;

		if (read_states(domains[i], &live, &config, err) != STATUS_OK)
			status = STATUS_FAILED;
		add_disks(*disks, first, virDomainGetName(domains[i]), live, true);
		add_disks(*disks, first, virDomainGetName(domains[i]), config, false);
		xmlFreeDoc(live);
		xmlFreeDoc(config);
		virDomainFree(domains[i]);
	}
	free(domains);
	return status;
}

enum vhostctl_status
libvirt_find_ctrlr(const struct vhostctl_opts *opts, const char *name, json_t **ctrlr,
		   struct errmsg *err)
{
	json_t *params = json_pack("{s:s}", "name", name);
	json_t *found;
	enum vhostctl_status status = ctl_call(opts, "vhost_get_controllers", params, &found, err);

	json_decref(params);
	*ctrlr = NULL;
	if (status != STATUS_OK)
		return status;
	if (libvirt_socket_of(json_array_get(found, 0)) != NULL)
		*ctrlr = json_incref(json_array_get(found, 0));
	json_decref(found);
	if (*ctrlr == NULL)
		return err_set(err, STATUS_FAILED,
			       "vhost %s: the answer names no socket (the daemon is older or newer "
			       "than vhostctl " VHOSTD_VERSION "?)",
			       name);
	return STATUS_OK;
}

const char *
libvirt_socket_of(json_t *ctrlr)
{
	return json_string_value(json_object_get(ctrlr, "socket"));
}

bool
libvirt_is_scsi(json_t *ctrlr)
{
	return json_object_get(json_object_get(ctrlr, "backend_specific"), "scsi") != NULL;
}

/* ---- attach ---- */

static const char *
ctrlr_name(json_t *ctrlr)
{
	const char *name = json_string_value(json_object_get(ctrlr, "ctrlr"));

	return name != NULL ? name : "";
}

bool
libvirt_can_keep(const char *socket)
{
	return strpbrk(socket, "<&'") == NULL;
}

/* Nobody else has it, and neither has this domain. */
static enum vhostctl_status
check_unused(const struct libvirt_domain *domain, json_t *ctrlr, struct errmsg *err)
{
	json_t *all;
	enum vhostctl_status status = libvirt_all_disks(domain->connection, &all, err);
	json_t *user = libvirt_disk_on(all, libvirt_socket_of(ctrlr));

	if (user != NULL)
		status = err_set(err, STATUS_FAILED, "vhost %s: domain %s has it already, as %s",
				 ctrlr_name(ctrlr),
				 json_string_value(json_object_get(user, "domain")),
				 json_string_value(json_object_get(user, "target")));
	else if (status == STATUS_OK && domain->live != NULL &&
		 json_array_size(json_object_get(ctrlr, "sessions")) > 0)
		status = err_set(err, STATUS_FAILED,
				 "vhost %s: a front-end that libvirt does not know is connected",
				 ctrlr_name(ctrlr));
	json_decref(all);
	return status;
}

static enum vhostctl_status
check_domain(const struct libvirt_domain *domain, bool persistent, struct errmsg *err)
{
	const char *problem = NULL;

	if (persistent && domain->config == NULL)
		problem = "it is transient: without a definition nothing can be --persistent";
	else if (!persistent && domain->live == NULL)
		problem = "it is off: start it, or attach for its next start with --persistent";
	else if (domain->live != NULL && !libvirt_memory_is_shared(domain->live))
		problem = "its memory is not shared: add " LIBVIRT_MEMORY
			  " to its definition (virsh edit), shut it down and start it again";
	else if (persistent && !libvirt_memory_is_shared(domain->config))
		problem = "its memory is not shared: add " LIBVIRT_MEMORY
			  " to its definition (virsh edit)";
	if (problem != NULL)
		return err_set(err, STATUS_FAILED, "domain %s: %s", domain->name, problem);
	return STATUS_OK;
}

bool
libvirt_forgets_reconnect(virConnectPtr connection)
{
	unsigned long version;

	return LIBVIRT_ASK(virConnectGetLibVersion(connection, &version)) == 0 &&
	       version < RECONNECT_VERSION;
}

enum vhostctl_status
libvirt_attach(const struct libvirt_args *args, const struct libvirt_domain *domain, json_t *ctrlr,
	       bool persistent, char **target, struct errmsg *err)
{
	unsigned int flags = (domain->live != NULL ? VIR_DOMAIN_AFFECT_LIVE : 0) |
			     (persistent ? VIR_DOMAIN_AFFECT_CONFIG : 0);
	enum vhostctl_status status;
	char *xml = NULL;

	*target = NULL;
	if (libvirt_is_scsi(ctrlr))
		return err_set(err, STATUS_FAILED,
			       "vhost %s: libvirt has no element for virtio-scsi over vhost-user; "
			       "put what 'vhostctl libvirt xml %s' prints into the domain",
			       ctrlr_name(ctrlr), ctrlr_name(ctrlr));
	if (!libvirt_can_keep(libvirt_socket_of(ctrlr)))
		return err_set(err, STATUS_FAILED, "vhost %s: " LIBVIRT_BAD_PATH,
			       ctrlr_name(ctrlr));
	status = check_domain(domain, persistent, err);
	if (status == STATUS_OK)
		status = check_unused(domain, ctrlr, err);
	if (status != STATUS_OK)
		return status;
	*target = args->target != NULL ? strdup(args->target)
				       : libvirt_free_target(domain->live, domain->config);
	if (*target != NULL)
		xml = libvirt_disk_xml(libvirt_socket_of(ctrlr), *target, args->queues);
	if (xml == NULL)
		return err_set(err, STATUS_FAILED, "domain %s: no name is free, or no memory",
			       domain->name);
	if (LIBVIRT_ASK(virDomainAttachDeviceFlags(domain->handle, xml, flags)) != 0)
		status = err_set(err, STATUS_FAILED, "domain %s: %s", domain->name,
				 virGetLastErrorMessage());
	else if (domain->live != NULL && libvirt_forgets_reconnect(domain->connection))
		fprintf(stderr, "vhostctl: note: " LIBVIRT_NO_RECONNECT "\n");
	free(xml);
	return status;
}

/* ---- detach ---- */

/* The disk's element; NULL: it has none on that socket. */
static char *
xml_of(xmlDoc *state, const char *socket)
{
	json_t *disks = libvirt_disks(state);
	const char *xml = json_string_value(json_object_get(libvirt_disk_on(disks, socket), "xml"));
	char *copy = xml != NULL ? strdup(xml) : NULL;

	json_decref(disks);
	return copy;
}

static bool
is_attached(virDomainPtr handle, const char *socket)
{
	xmlDoc *live = read_live(handle);
	char *xml = xml_of(live, socket);

	xmlFreeDoc(live);
	free(xml);
	return xml != NULL;
}

/* libvirt waits for some seconds only; a guest that boots may take longer. */
static enum vhostctl_status
wait_detached(const struct libvirt_domain *domain, const char *socket, long timeout_s,
	      struct errmsg *err)
{
	const struct timespec pause = {.tv_nsec = POLL_MS * 1000000};

	for (long waited_ms = 0; is_attached(domain->handle, socket); waited_ms += POLL_MS) {
		if (waited_ms >= timeout_s * 1000)
			return err_set(err, STATUS_FAILED,
				       "domain %s: the guest does not give the disk up (does its "
				       "system run?)",
				       domain->name);
		nanosleep(&pause, NULL);
	}
	return STATUS_OK;
}

static enum vhostctl_status
detach(const struct libvirt_domain *domain, const char *xml, unsigned int flags, struct errmsg *err)
{
	if (LIBVIRT_ASK(virDomainDetachDeviceFlags(domain->handle, xml, flags)) == 0)
		return STATUS_OK;
	return err_set(err, STATUS_FAILED, "domain %s: %s", domain->name, virGetLastErrorMessage());
}

enum vhostctl_status
libvirt_detach(struct libvirt_domain *domain, const char *socket, long timeout_s,
	       struct errmsg *err)
{
	char *live = xml_of(domain->live, socket);
	char *config = xml_of(domain->config, socket);
	enum vhostctl_status status = STATUS_OK;

	if (live == NULL && config == NULL)
		status = err_set(err, STATUS_FAILED, "domain %s: has no disk on %s", domain->name,
				 socket);
	if (live != NULL)
		status = detach(domain, live, VIR_DOMAIN_AFFECT_LIVE, err);
	if (live != NULL && status == STATUS_OK)
		status = wait_detached(domain, socket, timeout_s, err);
	if (config != NULL && status == STATUS_OK)
		status = detach(domain, config, VIR_DOMAIN_AFFECT_CONFIG, err);
	free(live);
	free(config);
	return status;
}
