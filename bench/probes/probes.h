/* SPDX-License-Identifier: BSD-3-Clause */
/* What vhost_load does besides lib/load's measurement. Functions return 0 or a negative errno. */
#ifndef BENCH_PROBES_H
#define BENCH_PROBES_H

#include "load/load.h"

struct options {
	struct load_options load;
	const char *pingpong;
	const char *wake;
	unsigned int count;
	bool verify;
	bool recover;
	bool copy;
	bool json;
	bool help;
};

/* Writes the whole disk, reads it back, compares and reports. -EIO where it differs. */
int probe_verify(struct load *load, bool json);

/* Loses the back-end, finds it again and reports when I/O went on. -ETIMEDOUT: it did not. */
int probe_recover(struct load *load);

/* Connects options->count guests, which then do nothing. -ECONNRESET: the back-end went away. */
int probe_idle(const struct options *options);

/* Measures and reports what copying blocks from and to much memory costs. */
int probe_copy(const struct options *options);

/* Measures and reports what waking a thread on another CPU costs, its sleep included. */
int probe_wake(const struct options *options);

/* Measures and reports the way of a cache line between two CPUs. */
int probe_pingpong(const struct options *options);

#endif
