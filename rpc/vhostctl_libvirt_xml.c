/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What vhostctl reads from libvirt's XML and writes into it. libxml2 escapes: names and paths may
 * have any character.
 */
#include <libxml/parser.h>
#include <libxml/xpath.h>
#include <libxml/xpathInternals.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vhostctl_libvirt.h"

#define QEMU_NAMESPACE "http://libvirt.org/schemas/domain/qemu/1.0"
#define RECONNECT_S    "1"
#define LETTERS        26
/* On a q35 machine libvirt fills pcie.0 from slot 1 on, and has the last ones for the chipset's. */
#define SCSI_FIRST_SLOT "0x10"

#define X(text) ((const xmlChar *)(text))

xmlDoc *
libvirt_parse(const char *text)
{
	return xmlReadMemory(text, (int)strlen(text), NULL, NULL,
			     XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
}

/* NULL: nothing is there. To be freed by xmlXPathFreeObject(). */
static xmlXPathObject *
find_nodes(xmlDoc *doc, const char *path)
{
	xmlXPathContext *context = doc != NULL ? xmlXPathNewContext(doc) : NULL;
	xmlXPathObject *found;

	if (context == NULL)
		return NULL;
	xmlXPathRegisterNs(context, X("qemu"), X(QEMU_NAMESPACE));
	found = xmlXPathEvalExpression(X(path), context);
	xmlXPathFreeContext(context);
	if (found != NULL && xmlXPathNodeSetIsEmpty(found->nodesetval)) {
		xmlXPathFreeObject(found);
		return NULL;
	}
	return found;
}

static char *
copy_content(xmlNode *node)
{
	xmlChar *content = node != NULL ? xmlNodeGetContent(node) : NULL;
	char *copy = strdup(content != NULL ? (const char *)content : "");

	xmlFree(content);
	return copy;
}

char *
libvirt_text_at(xmlDoc *doc, const char *path)
{
	xmlXPathObject *found = find_nodes(doc, path);
	char *text = copy_content(found != NULL ? found->nodesetval->nodeTab[0] : NULL);

	xmlXPathFreeObject(found);
	return text;
}

int
libvirt_count(xmlDoc *doc, const char *path)
{
	xmlXPathObject *found = find_nodes(doc, path);
	int count = found != NULL ? found->nodesetval->nodeNr : 0;

	xmlXPathFreeObject(found);
	return count;
}

/* A cell's memAccess counts more than what the domain says for all. */
bool
libvirt_memory_is_shared(xmlDoc *domain)
{
	bool shared = libvirt_count(domain, "/domain/memoryBacking/access[@mode='shared']") > 0;

	if (libvirt_count(domain, "/domain/cpu/numa/cell[@memAccess='private']") > 0)
		return false;
	return shared || (libvirt_count(domain, "/domain/cpu/numa/cell") > 0 &&
			  libvirt_count(domain, "/domain/cpu/numa/cell[not(@memAccess)]") == 0);
}

/* ---- what a domain has ---- */

static char *
dump_node(xmlNode *node, int format)
{
	xmlBuffer *buffer = xmlBufferCreate();
	char *text = NULL;

	if (buffer != NULL && xmlNodeDump(buffer, node->doc, node, 0, format) >= 0)
		text = strdup((const char *)xmlBufferContent(buffer));
	xmlBufferFree(buffer);
	return text;
}

/* What is at a path below the disk, as a new reference. */
static json_t *
text_below(xmlNode *disk, const char *child, const char *property)
{
	json_t *value = NULL;

	for (xmlNode *node = disk->children; node != NULL; node = node->next) {
		xmlChar *text;

		if (!xmlStrEqual(node->name, X(child)))
			continue;
		text = xmlGetProp(node, X(property));
		value = text != NULL ? json_string((const char *)text) : NULL;
		xmlFree(text);
		break;
	}
	return value != NULL ? value : json_string("");
}

static bool
has_reconnect(xmlNode *disk)
{
	for (xmlNode *node = disk->children; node != NULL; node = node->next) {
		json_t *enabled = text_below(node, "reconnect", "enabled");
		bool is_on = strcmp(json_string_value(enabled), "yes") == 0;

		json_decref(enabled);
		if (is_on)
			return true;
	}
	return false;
}

static json_t *
describe_disk(xmlNode *disk)
{
	char *xml = dump_node(disk, 0);
	json_t *object = json_pack(
		"{s:o, s:o, s:o, s:b, s:s}", "target", text_below(disk, "target", "dev"), "socket",
		text_below(disk, "source", "path"), "queues", text_below(disk, "driver", "queues"),
		"reconnect", has_reconnect(disk), "xml", xml != NULL ? xml : "");

	free(xml);
	return object;
}

/* The value of path= in a QEMU option, in which commas are doubled; NULL: there is none. */
static json_t *
path_of_option(const char *option)
{
	const char *path = strstr(option, ",path=");
	char *copy = path != NULL ? strdup(path + strlen(",path=")) : NULL;
	json_t *value;
	char *to = copy;

	if (copy == NULL)
		return NULL;
	for (const char *from = copy; *from != '\0'; from++) {
		if (*from == ',' && from[1] != ',')
			break;
		from += *from == ',';
		*to++ = *from;
	}
	*to = '\0';
	value = json_string(copy);
	free(copy);
	return value;
}

json_t *
libvirt_disks(xmlDoc *domain)
{
	xmlXPathObject *disks = find_nodes(domain, "/domain/devices/disk[@type='vhostuser']");
	xmlXPathObject *options = find_nodes(
		domain, "/domain/qemu:commandline/qemu:arg[starts-with(@value, 'socket,')]/@value");
	json_t *found = json_array();

	for (int i = 0; disks != NULL && i < disks->nodesetval->nodeNr; i++)
		json_array_append_new(found, describe_disk(disks->nodesetval->nodeTab[i]));
	for (int i = 0; options != NULL && i < options->nodesetval->nodeNr; i++) {
		char *option = copy_content(options->nodesetval->nodeTab[i]);
		json_t *path = option != NULL ? path_of_option(option) : NULL;

		if (path != NULL)
			json_array_append_new(found, json_pack("{s:s, s:o}", "target",
							       "virtio-scsi", "socket", path));
		free(option);
	}
	xmlXPathFreeObject(disks);
	xmlXPathFreeObject(options);
	return found;
}

bool
libvirt_same_socket(const char *a, const char *b)
{
	struct stat of_a, of_b;

	if (strcmp(a, b) == 0)
		return true;
	return stat(a, &of_a) == 0 && stat(b, &of_b) == 0 && of_a.st_dev == of_b.st_dev &&
	       of_a.st_ino == of_b.st_ino;
}

json_t *
libvirt_disk_on(json_t *disks, const char *socket)
{
	json_t *disk;
	size_t i;

	json_array_foreach (disks, i, disk) {
		if (libvirt_same_socket(json_string_value(json_object_get(disk, "socket")), socket))
			return disk;
	}
	return NULL;
}

char *
libvirt_free_target(xmlDoc *live, xmlDoc *config)
{
	for (int i = 0; i < LETTERS * (LETTERS + 1); i++) {
		char name[8] = "vd", path[64];
		int len = 2;

		if (i >= LETTERS)
			name[len++] = (char)('a' + i / LETTERS - 1);
		name[len] = (char)('a' + i % LETTERS);
		snprintf(path, sizeof(path), "/domain/devices/disk/target[@dev='%s']", name);
		if (libvirt_count(live, path) == 0 && libvirt_count(config, path) == 0)
			return strdup(name);
	}
	return NULL;
}

bool
libvirt_has_free_port(xmlDoc *live)
{
	xmlXPathObject *ports = find_nodes(
		live, "/domain/devices/controller[@type='pci'][@model='pcie-root-port' or "
		      "@model='pcie-switch-downstream-port']/@index");
	bool is_pcie = libvirt_count(live, "/domain/devices/controller[@model='pcie-root']") > 0;
	bool found = !is_pcie;

	for (int i = 0; !found && ports != NULL && i < ports->nodesetval->nodeNr; i++) {
		char *index = copy_content(ports->nodesetval->nodeTab[i]);
		char path[96];

		if (index == NULL)
			break;
		snprintf(path, sizeof(path),
			 "/domain/devices//address[@type='pci'][@bus='0x%02lx']",
			 strtoul(index, NULL, 10));
		found = libvirt_count(live, path) == 0;
		free(index);
	}
	xmlXPathFreeObject(ports);
	return found;
}

/* ---- what a domain gets ---- */

/* Adds an element with a property, and returns it. */
static xmlNode *
add(xmlNode *parent, xmlNs *ns, const char *name, const char *property, const char *value)
{
	xmlNode *node = xmlNewChild(parent, ns, X(name), NULL);

	if (node != NULL)
		xmlNewProp(node, X(property), X(value));
	return node;
}

char *
libvirt_disk_xml(const char *socket, const char *target, const char *queues)
{
	xmlNode *disk = xmlNewNode(NULL, X("disk"));
	xmlNode *node;
	char *text;

	xmlNewProp(disk, X("type"), X("vhostuser"));
	xmlNewProp(disk, X("device"), X("disk"));
	node = add(disk, NULL, "driver", "name", "qemu");
	xmlNewProp(node, X("type"), X("raw"));
	if (queues != NULL)
		xmlNewProp(node, X("queues"), X(queues));
	node = add(disk, NULL, "source", "type", "unix");
	xmlNewProp(node, X("path"), X(socket));
	node = add(node, NULL, "reconnect", "enabled", "yes");
	xmlNewProp(node, X("timeout"), X(RECONNECT_S));
	node = add(disk, NULL, "target", "dev", target);
	xmlNewProp(node, X("bus"), X("virtio"));
	text = dump_node(disk, 1);
	xmlFreeNode(disk);
	return text;
}

/*
 * QEMU takes letters, digits, '-', '.' and '_' in the names of its objects. What else is in a
 * controller's becomes _XX, so that different ones stay different.
 */
static char *
qemu_id(const char *name)
{
	char *id = malloc(3 * strlen(name) + 1);
	char *to = id;

	for (; id != NULL && *name != '\0'; name++) {
		if ((*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
		    (*name >= '0' && *name <= '9') || *name == '-' || *name == '.')
			*to++ = *name;
		else
			to += sprintf(to, "_%02x", (unsigned char)*name);
	}
	if (id != NULL)
		*to = '\0';
	return id;
}

/* In a QEMU option a comma ends a value; two are one. */
static char *
double_commas(const char *text)
{
	char *doubled = malloc(2 * strlen(text) + 1);
	char *to = doubled;

	for (; doubled != NULL && *text != '\0'; text++) {
		if (*text == ',')
			*to++ = ',';
		*to++ = *text;
	}
	if (doubled != NULL)
		*to = '\0';
	return doubled;
}

/*
 * No reconnect=: before QEMU 8.2 a vhost-user-scsi device cannot come back, nor even start on a
 * chardev that has it, since it does not wait for that to be connected.
 */
static char *
dump_scsi_domain(const char *chardev, const char *device)
{
	xmlNode *domain = xmlNewNode(NULL, X("domain"));
	xmlNs *qemu = xmlNewNs(domain, X(QEMU_NAMESPACE), X("qemu"));
	xmlNode *node = xmlNewChild(domain, NULL, X("memoryBacking"), NULL);
	char *text;

	add(node, NULL, "source", "type", "memfd");
	add(node, NULL, "access", "mode", "shared");
	node = xmlNewChild(domain, qemu, X("commandline"), NULL);
	add(node, qemu, "arg", "value", "-chardev");
	add(node, qemu, "arg", "value", chardev);
	add(node, qemu, "arg", "value", "-device");
	add(node, qemu, "arg", "value", device);
	text = dump_node(domain, 1);
	xmlFreeNode(domain);
	return text;
}

char *
libvirt_scsi_xml(const char *name, const char *socket, const char *queues)
{
	char *id = qemu_id(name);
	char *path = double_commas(socket);
	char *chardev = NULL, *device = NULL, *text = NULL;

	if (id != NULL && path != NULL &&
	    asprintf(&chardev, "socket,id=vhostd-%s,path=%s", id, path) < 0)
		chardev = NULL;
	if (chardev != NULL &&
	    asprintf(&device,
		     "vhost-user-scsi-pci,id=vhostd-scsi-%s,chardev=vhostd-%s,bus=pcie.0,"
		     "addr=" SCSI_FIRST_SLOT "%s%s",
		     id, id, queues != NULL ? ",num_queues=" : "",
		     queues != NULL ? queues : "") < 0)
		device = NULL;
	if (device != NULL)
		text = dump_scsi_domain(chardev, device);
	free(device);
	free(chardev);
	free(path);
	free(id);
	return text;
}
