/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhostctl libvirt, vhostctl provision: controllers as disks of libvirt's domains. Private to rpc/;
 * the daemon knows nothing of libvirt.
 */
#ifndef VHOSTD_VHOSTCTL_LIBVIRT_H
#define VHOSTD_VHOSTCTL_LIBVIRT_H

#include <libvirt/libvirt.h>
#include <libxml/tree.h>

#include "vhostctl.h"

/* What the command line says; NULL: nothing. All of it is UTF-8. */
struct libvirt_args {
	const char *domain; /* name or UUID */
	const char *ctrlr;
	const char *connect; /* libvirt's URI */
	const char *target;
	const char *queues; /* a number from 1 to VHOST_MAX_QUEUES */
	const char *size;
	const char *dir;
	bool persistent;
};

/* ---- waiting for libvirt (vhostctl_libvirt_domain.c) ---- */

/*
 * From now on each call has --timeout to be answered. Nothing makes libvirt return from one that is
 * not, so vhostctl ends there: with the status STATUS_FAILED, and a message that `consequence` is
 * the end of ("" or "; ...").
 */
void libvirt_limit(const struct vhostctl_opts *opts, const char *consequence);
void libvirt_begin_call(void);
void libvirt_end_call(void);

/* What may ask libvirtd is called through this. */
#define LIBVIRT_ASK(call)                                                                          \
	({                                                                                         \
		libvirt_begin_call();                                                              \
		__typeof__(call) answer_ = (call);                                                 \
		libvirt_end_call();                                                                \
		answer_;                                                                           \
	})

/* ---- XML (vhostctl_libvirt_xml.c); new strings and references, NULL: no memory ---- */

#define LIBVIRT_MEMORY                                                                             \
	"<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"

/* NULL: it is not XML. */
xmlDoc *libvirt_parse(const char *text);
/* "" when nothing is at that XPath in the document (may be NULL). */
char *libvirt_text_at(xmlDoc *doc, const char *path);
int libvirt_count(xmlDoc *doc, const char *path);
/* All guest memory can be mapped by others. */
bool libvirt_memory_is_shared(xmlDoc *domain);
/*
 * An array of what a domain (may be NULL) has on vhost-user sockets: {target, socket, queues,
 * reconnect, xml} for disks; {target: "virtio-scsi", socket} for what its <qemu:commandline> says.
 */
json_t *libvirt_disks(xmlDoc *domain);
/* Whether two paths are of the same socket. */
bool libvirt_same_socket(const char *a, const char *b);
/* The member of libvirt_disks() with that socket, borrowed; NULL: there is none. */
json_t *libvirt_disk_on(json_t *disks, const char *socket);
/* The first of vda, vdb, ..., vdzz that is free in both domains (which may be NULL). */
char *libvirt_free_target(xmlDoc *live, xmlDoc *config);
/* The <disk> element; queues NULL: as QEMU chooses. */
char *libvirt_disk_xml(const char *socket, const char *target, const char *queues);
/* What makes a virtio-scsi controller part of a domain, as a <domain> with only that in it. */
char *libvirt_scsi_xml(const char *name, const char *socket, const char *queues);
/* Unless the domain is a PCIe machine without one. */
bool libvirt_has_free_port(xmlDoc *live);

/* ---- domains (vhostctl_libvirt_domain.c) ---- */

struct libvirt_domain {
	virConnectPtr connection;
	virDomainPtr handle;
	const char *name; /* the handle's */
	xmlDoc *live;     /* NULL: it is off */
	xmlDoc *config;   /* NULL: it is gone when it is off */
};

/* Sets *connection; closed by virConnectClose(). */
enum vhostctl_status libvirt_connect(const struct libvirt_args *args, virConnectPtr *connection,
				     struct errmsg *err);
/* *domain is to be closed also after a failure. */
enum vhostctl_status libvirt_open(const struct libvirt_args *args, struct libvirt_domain *domain,
				  struct errmsg *err);
void libvirt_close(struct libvirt_domain *domain);
/*
 * Sets *disks to a new array of what libvirt_disks() says of all domains, and {domain, running} of
 * each. Where it fails, that is what could be seen.
 */
enum vhostctl_status libvirt_all_disks(virConnectPtr connection, json_t **disks,
				       struct errmsg *err);

/* Sets *ctrlr to what vhost_get_controllers says of that one (a new reference). */
enum vhostctl_status libvirt_find_ctrlr(const struct vhostctl_opts *opts, const char *name,
					json_t **ctrlr, struct errmsg *err);
/* Both borrowed. */
const char *libvirt_socket_of(json_t *ctrlr);
bool libvirt_is_scsi(json_t *ctrlr);

/*
 * libvirt 9.0 writes the path of a vhost-user disk's socket into its own files as it is. With one of
 * these characters in it the domain would be gone at libvirtd's next start.
 */
bool libvirt_can_keep(const char *socket);
#define LIBVIRT_BAD_PATH                                                                           \
	"its socket's path has <, & or ', which libvirt does not escape in its files, and then "   \
	"cannot read: make the controller with another name"

/*
 * libvirt 9.0, Debian 12's: when it attaches a disk to a running guest it asks QEMU for
 * "reconnect": 0, whatever the XML says. When it starts a guest it gets that right.
 */
bool libvirt_forgets_reconnect(virConnectPtr connection);
#define LIBVIRT_NO_RECONNECT                                                                       \
	"this libvirt forgets <reconnect> when it attaches to a running guest: after a restart "   \
	"of "                                                                                      \
	"the daemon the disk stands still until the domain is started anew"

/*
 * Gives the domain a disk on that controller, now (where it runs), and for its next start
 * (persistent). Sets *target (to be freed; NULL: libvirt was not asked for anything). Nothing is
 * changed on failure, unless libvirt itself stops half-way.
 */
enum vhostctl_status libvirt_attach(const struct libvirt_args *args,
				    const struct libvirt_domain *domain, json_t *ctrlr,
				    bool persistent, char **target, struct errmsg *err);
/*
 * Takes it away, now and from the definition, wherever it is, and waits until the guest has given it
 * up, at most timeout_s.
 */
enum vhostctl_status libvirt_detach(struct libvirt_domain *domain, const char *socket,
				    long timeout_s, struct errmsg *err);

enum vhostctl_status libvirt_check(const struct vhostctl_opts *opts,
				   const struct libvirt_args *args, struct errmsg *err);
enum vhostctl_status libvirt_provision(const struct vhostctl_opts *opts,
				       const struct libvirt_args *args, struct errmsg *err);

#endif
