/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nvme_attach_ns DEVICE attach|detach NSID CNTLID: attaches a namespace to a controller, or
 * detaches it, by another controller of the subsystem, which the kernel drives (/dev/nvmeN). Runs
 * in a guest (qemu-tests/test_nvme.py).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/nvme_ioctl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define NAMESPACE_ATTACHMENT 0x15 /* NVMe 1.4 §5.19 */
#define SELECT_ATTACH        0
#define SELECT_DETACH        1
#define CONTROLLER_LIST      2048 /* entries */

int
main(int argc, char **argv)
{
	static uint16_t list[CONTROLLER_LIST]; /* how many, and which */
	struct nvme_admin_cmd command = {
		.opcode = NAMESPACE_ATTACHMENT, .addr = (uintptr_t)list, .data_len = sizeof(list)};
	int fd, rc;

	if (argc != 5) {
		fprintf(stderr, "usage: nvme_attach_ns DEVICE attach|detach NSID CNTLID\n");
		return 2;
	}
	fd = open(argv[1], O_RDWR);
	if (fd < 0) {
		fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	command.cdw10 = strcmp(argv[2], "attach") == 0 ? SELECT_ATTACH : SELECT_DETACH;
	command.nsid = (uint32_t)strtoul(argv[3], NULL, 0);
	list[0] = 1;
	list[1] = (uint16_t)strtoul(argv[4], NULL, 0);
	rc = ioctl(fd, NVME_IOCTL_ADMIN_CMD, &command);
	if (rc != 0)
		fprintf(stderr, "%s: %s\n", argv[2],
			rc < 0 ? strerror(errno) : "the controller refuses");
	return rc == 0 ? 0 : 1;
}
