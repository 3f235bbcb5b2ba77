/* SPDX-License-Identifier: BSD-3-Clause */
/* For LD_PRELOAD: /dev/sgN is the SCSI disk behind the inherited socket with the descriptor N. */
#include "sg_socket.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define SG_VERSION 30536
#define DID_ERROR  7
#define HAS_SENSE  8

/* The data buffer, which may be in several parts. */
static bool
transfer(int fd, const struct sg_io_hdr *io, size_t size, bool out)
{
	struct sg_iovec whole = {io->dxferp, io->dxfer_len};
	const struct sg_iovec *iov = io->iovec_count != 0 ? io->dxferp : &whole;

	for (; size > 0; iov++) {
		size_t part = iov->iov_len < size ? iov->iov_len : size;

		if (out ? !sg_send(fd, iov->iov_base, part) : !sg_receive(fd, iov->iov_base, part))
			return false;
		size -= part;
	}
	return true;
}

static int
sg_io(int fd, struct sg_io_hdr *io)
{
	bool out = io->dxfer_direction == SG_DXFER_TO_DEV;
	bool in = io->dxfer_direction == SG_DXFER_FROM_DEV;
	struct sg_command command = {
		.cdb_length = io->cmd_len,
		.out_bytes = out ? io->dxfer_len : 0,
		.in_bytes = in ? io->dxfer_len : 0,
	};
	struct sg_result result;

	memcpy(command.cdb, io->cmdp, io->cmd_len);
	if (!sg_send(fd, &command, sizeof(command)) || !transfer(fd, io, command.out_bytes, true) ||
	    !sg_receive(fd, &result, sizeof(result)) ||
	    !transfer(fd, io, result.transferred_in, false)) {
		errno = EIO;
		return -1;
	}
	io->status = result.status;
	io->host_status = result.failed ? DID_ERROR : 0;
	io->driver_status = result.sense_length != 0 ? HAS_SENSE : 0;
	io->sb_len_wr = result.sense_length < io->mx_sb_len ? result.sense_length : io->mx_sb_len;
	memcpy(io->sbp, result.sense, io->sb_len_wr);
	io->resid = (int)(io->dxfer_len - (out ? result.transferred_out : result.transferred_in));
	io->info = result.status != 0 || result.failed ? SG_INFO_CHECK : SG_INFO_OK;
	return 0;
}

int
open(const char *path, int flags, ...)
{
	int (*real)(const char *, int, ...) =
		(int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
	va_list args;
	mode_t mode;

	va_start(args, flags);
	mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
	va_end(args);
	if (strncmp(path, "/dev/sg", 7) == 0)
		return dup(atoi(path + 7));
	return real(path, flags, mode);
}

int
ioctl(int fd, unsigned long request, ...)
{
	int (*real)(int, unsigned long, ...) =
		(int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (request == SG_IO)
		return sg_io(fd, arg);
	if (request == SG_GET_VERSION_NUM) {
		*(int *)arg = SG_VERSION;
		return 0;
	}
	return real(fd, request, arg);
}
