/* SPDX-License-Identifier: BSD-3-Clause */
/* Guests that are connected and do nothing. */
#include "probes.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

/* As many files as the process may have: each guest takes eight. */
static void
raise_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) != 0)
		return;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

static int
start_guest(struct load *guest, const struct options *options, unsigned int index)
{
	char path[4096];
	int rc;

	snprintf(path, sizeof(path), "%s%u", options->load.socket, index);
	guest->options = options->load;
	guest->options.socket = path;
	rc = load_open(guest);
	guest->options.socket = NULL; /* the device has a copy */
	if (rc == 0)
		rc = client_device_start(&guest->device);
	if (rc < 0)
		load_close(guest);
	return rc;
}

/* Sleeps. -ECONNRESET when the back-end closes one of the connections. */
static int
stay(const struct load *guests, unsigned int count, double seconds)
{
	struct pollfd *pfds = calloc(count, sizeof(*pfds));
	int rc;

	if (!pfds)
		return -ENOMEM;
	for (unsigned int i = 0; i < count; i++)
		pfds[i] = (struct pollfd){.fd = guests[i].device.client.fd, .events = POLLIN};
	rc = poll(pfds, count, (int)(seconds * 1000));
	free(pfds);
	return rc == 0 ? 0 : rc < 0 ? -errno : -ECONNRESET;
}

int
probe_idle(const struct options *options)
{
	struct load *guests = calloc(options->count, sizeof(*guests));
	unsigned int started = 0;
	int rc = guests ? 0 : -ENOMEM;

	raise_limit();
	while (rc == 0 && started < options->count) {
		rc = start_guest(&guests[started], options, started);
		started += rc == 0;
	}
	if (rc == 0) {
		printf(options->json ? "{\"connected\": %u}\n" : "connected: %u\n", started);
		fflush(stdout);
		rc = stay(guests, started, options->load.seconds);
	}
	for (unsigned int i = 0; i < started; i++)
		load_close(&guests[i]);
	free(guests);
	return rc;
}
