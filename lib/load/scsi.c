/* SPDX-License-Identifier: BSD-3-Clause */
/* What is different where the disk is LUN 0 of target 0 of a SCSI controller. */
#include "load.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define READ_CAPACITY_10 0x25
#define READ_10          0x28
#define WRITE_10         0x2a
/* A LUN has no more unit attentions than these (SAM-5 §5.14) for a driver that begins. */
#define TRIES 8

/* 0, or -EIO: it has another status than GOOD each time. */
static int
execute(struct client_scsi *scsi, uint8_t opcode, void *data, uint32_t size)
{
	const uint8_t cdb[10] = {opcode};
	const struct client_scsi_command command = {
		.cdb = cdb, .cdb_length = sizeof(cdb), .in = data, .size = size};
	struct client_scsi_completion done;
	int rc;

	for (int i = 0; i < TRIES; i++) {
		rc = client_scsi_command(scsi, &command, &done);
		if (rc < 0)
			return rc;
		if (done.response.response == VIRTIO_SCSI_S_OK && done.response.status == 0)
			return 0;
	}
	return -EIO;
}

int
load_scsi_begin(struct load *load)
{
	struct client_ring *ring = &load->device.rings[CLIENT_SCSI_REQUESTS];
	uint32_t capacity[2]; /* last block, bytes of a block: big-endian */
	struct client_scsi scsi;
	int rc;

	rc = client_scsi_create(&scsi, ring, 4096, false);
	if (rc < 0)
		return rc;
	rc = execute(&scsi, READ_CAPACITY_10, capacity, sizeof(capacity));
	client_scsi_destroy(&scsi);
	if (rc == 0 && be32toh(capacity[1]) != CLIENT_SECTOR)
		rc = -ENOTSUP;
	load->sectors = be32toh(capacity[0]) + 1ULL;
	return rc;
}

void
load_scsi_fill(struct scsi_request *request, bool writes, uint16_t count)
{
	uint16_t blocks = htobe16(count);

	memset(request, 0, sizeof(*request));
	client_scsi_lun(request->command.lun, 0, 0);
	request->command.cdb[0] = writes ? WRITE_10 : READ_10;
	memcpy(request->command.cdb + 7, &blocks, sizeof(blocks));
}
