/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * crash: a daemon that is killed under a workload, and takes over from itself. Functions return 0
 * or a negative errno, as those of daemon.h and workload.h.
 */
#ifndef TESTLIB_CRASH_H
#define TESTLIB_CRASH_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon.h"
#include "workload.h"

struct crash {
	struct daemon daemon;
	struct workload load;
};

/* A daemon, a disk of a file, and a guest with that kind of rings. On an error nothing is left. */
int crash_open(struct crash *crash, bool packed, uint64_t seed);
/*
 * Everything that is under way completes, and the disk is what it must be. Ends all, in any case.
 */
int crash_close(struct crash *crash);

/*
 * Works for a random while, kills the daemon with all queues full, starts it again and connects.
 * *us: from the kill to the first request that the new daemon completes.
 */
int crash_round(struct crash *crash, uint64_t *us);
/* The same, but it is the front-end that goes and comes back. */
int crash_disconnect(struct crash *crash);

#endif
