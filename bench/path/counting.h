/* SPDX-License-Identifier: BSD-3-Clause */
/* callgrind's requests, or nothing where its header is not there. */
#ifndef BENCH_PATH_COUNTING_H
#define BENCH_PATH_COUNTING_H

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_TOGGLE_COLLECT
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name) (void)(name)
#endif

#endif
