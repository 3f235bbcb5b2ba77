/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An NVMe controller within the bench, for costs of the driver that are to be exact: it does
 * something only when it has its turn, and then completes all that it was told of. It moves no
 * data, but insists on addresses that are mapped. One namespace of PATH_DISK_BYTES.
 */
#ifndef BENCH_PATH_NVME_DEVICE_H
#define BENCH_PATH_NVME_DEVICE_H

#include <stdint.h>

#include "bdev_modules.h"
#include "nvme_transport.h"

/* A program that has it names it, as "PCIe", among the nvme_transports. */
extern const struct nvme_transport_ops path_nvme_transport;
#define PATH_NVME_ADDRESS "0000:00:00.0" /* any will do */

/* [waits] App thread: the one controller that the bench attaches. Ends the program on failure. */
void path_nvme_attach(const struct bdev_nvme_opts *opts);

/* Bits of the queue pairs whose threads are on the calling thread's reactor. */
uint32_t path_nvme_queues_here(void);
/* On that reactor: completes what they were told of. */
void path_nvme_turn(uint32_t queues);

/* Requests so far whose data the driver copied. While its threads do not run. */
uint64_t path_nvme_copied(void);

#endif
