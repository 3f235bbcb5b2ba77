/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libvirt_trouble: what a libvirt may do that its test driver does not. $LIBVIRT_TROUBLE names the
 * calls, with commas between them; others are libvirt's own.
 *   attach, detach  succeed, and do nothing
 *   attach-hangs    gives no answer
 *   list-fails
 *   not-xml         is what it says of a domain called "two"
 */
#include <dlfcn.h>
#include <libvirt/libvirt.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool
is_asked_for(const char *trouble)
{
	const char *text = getenv("LIBVIRT_TROUBLE");
	size_t len = strlen(trouble);

	while (text != NULL) {
		if (strncmp(text, trouble, len) == 0 && (text[len] == ',' || text[len] == '\0'))
			return true;
		text = strchr(text, ',');
		text += text != NULL;
	}
	return false;
}

int
virDomainAttachDeviceFlags(virDomainPtr domain, const char *xml, unsigned int flags)
{
	int (*next)(virDomainPtr, const char *, unsigned int) = dlsym(RTLD_NEXT, __func__);

	while (is_asked_for("attach-hangs"))
		pause();
	return is_asked_for("attach") ? 0 : next(domain, xml, flags);
}

int
virDomainDetachDeviceFlags(virDomainPtr domain, const char *xml, unsigned int flags)
{
	int (*next)(virDomainPtr, const char *, unsigned int) = dlsym(RTLD_NEXT, __func__);

	return is_asked_for("detach") ? 0 : next(domain, xml, flags);
}

char *
virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags)
{
	char *(*next)(virDomainPtr, unsigned int) = dlsym(RTLD_NEXT, __func__);

	if (is_asked_for("not-xml") && strcmp(virDomainGetName(domain), "two") == 0)
		return strdup("<domain");
	return next(domain, flags);
}

int
virConnectListAllDomains(virConnectPtr connection, virDomainPtr **domains, unsigned int flags)
{
	int (*next)(virConnectPtr, virDomainPtr **, unsigned int) = dlsym(RTLD_NEXT, __func__);

	return is_asked_for("list-fails") ? -1 : next(connection, domains, flags);
}
