/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_device: a software NVMe device of one's own (tests/nvme_device/main.c is its manual), in a
 * temporary folder. The program is $VHOSTD_BUILD/bin/nvme_device, or the bin/nvme_device that was
 * built with the test. Functions return 0 or a negative errno, unless they say otherwise; every
 * wait has a deadline.
 */
#ifndef TESTLIB_NVME_DEVICE_H
#define TESTLIB_NVME_DEVICE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NVME_DEVICE_PATH       160
#define NVME_DEVICE_ANSWER     8192
#define NVME_DEVICE_VIOLATIONS 3 /* the exit status when its client broke rules */

struct nvme_device {
	char folder[NVME_DEVICE_PATH / 2];
	char socket[NVME_DEVICE_PATH];
	char control[NVME_DEVICE_PATH];
	char log[NVME_DEVICE_PATH];
	pid_t pid; /* 0: does not run */
	int control_fd;
};

/*
 * Makes the folder and starts the device; waits until it answers. args: more options (--spin, -c
 * LINE, …), ended by NULL, or NULL.
 */
int nvme_device_start(struct nvme_device *device, const char *const *args);
/*
 * SIGTERM. Returns its exit status: 0, NVME_DEVICE_VIOLATIONS, a sanitizer's; its log goes to
 * stderr when that is neither.
 */
int nvme_device_stop(struct nvme_device *device);
/* SIGKILL: what it cached is gone. */
void nvme_device_kill(struct nvme_device *device);
/* Starts it again in the same folder. */
int nvme_device_restart(struct nvme_device *device, const char *const *args);
/*
 * Stops it if it runs, and removes the folder. Returns as nvme_device_stop(), 0 when it did not
 * run.
 */
int nvme_device_end(struct nvme_device *device);

/*
 * One line of the control socket. answer (may be NULL): what is behind "ok ". -EINVAL: "error"; it
 * is printed.
 */
int nvme_device_control(struct nvme_device *device, char answer[NVME_DEVICE_ANSWER],
			const char *format, ...) __attribute__((format(printf, 3, 4)));
/*
 * The number of one key=N of `stats` or `violations`; 0 when the key is not there, or a negative
 * errno.
 */
int64_t nvme_device_stat(struct nvme_device *device, const char *key);
int64_t nvme_device_violations(struct nvme_device *device, const char *name);

#endif
