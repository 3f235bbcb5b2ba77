/* SPDX-License-Identifier: BSD-3-Clause */
/* Status codes (NVMe 1.4 §4.6.1): their names, their errnos, and which of them may go away. */
#include <errno.h>
#include <stdio.h>

#include "nvme.h"
#include "qpair.h"

#define GENERIC(code)  (NVME_SCT_GENERIC << NVME_SCT_SHIFT | (code))
#define SPECIFIC(code) (NVME_SCT_CMD_SPECIFIC << NVME_SCT_SHIFT | (code))
#define MEDIA(code)    (NVME_SCT_MEDIA << NVME_SCT_SHIFT | (code))
#define PATH(code)     (NVME_SCT_PATH << NVME_SCT_SHIFT | (code))

struct status {
	uint16_t status;
	int16_t rc;
	bool final; /* the same command fails in the same way, whether the device says so or not */
	const char *name;
};

/*
 * As Linux' nvme_error_status() says, but: a range outside of the namespace is -EINVAL and not
 * -EREMOTEIO, a namespace that is not there is -ENODEV and not -EOPNOTSUPP, write protection is
 * -EROFS, what was aborted is -ECANCELED, and paths have no errno of their own. What is not here is
 * -EIO, and is tried again, unless the media are to blame.
 */
static const struct status statuses[] = {
	{GENERIC(NVME_SC_INVALID_OPCODE), -EOPNOTSUPP, true, "Invalid Command Opcode"},
	{GENERIC(NVME_SC_INVALID_FIELD), -EOPNOTSUPP, true, "Invalid Field in Command"},
	{GENERIC(NVME_SC_CMDID_CONFLICT), -EIO, false, "Command ID Conflict"},
	{GENERIC(NVME_SC_DATA_XFER_ERROR), -EIO, false, "Data Transfer Error"},
	{GENERIC(NVME_SC_POWER_LOSS), -EIO, false, "Commands Aborted due to Power Loss"},
	{GENERIC(NVME_SC_INTERNAL), -EIO, false, "Internal Error"},
	{GENERIC(NVME_SC_ABORT_REQ), -ECANCELED, false, "Command Abort Requested"},
	{GENERIC(NVME_SC_ABORT_QUEUE), -ECANCELED, false, "Command Aborted due to SQ Deletion"},
	{GENERIC(NVME_SC_FUSED_FAIL), -ECANCELED, false, "Aborted due to Failed Fused Command"},
	{GENERIC(NVME_SC_FUSED_MISSING), -ECANCELED, false, "Aborted due to Missing Fused Command"},
	{GENERIC(NVME_SC_INVALID_NS), -ENODEV, true, "Invalid Namespace or Format"},
	{GENERIC(NVME_SC_CMD_SEQ_ERROR), -EIO, true, "Command Sequence Error"},
	{GENERIC(NVME_SC_SGL_INVALID_LAST), -EIO, true, "Invalid SGL Segment Descriptor"},
	{GENERIC(NVME_SC_SGL_INVALID_COUNT), -EIO, true, "Invalid Number of SGL Descriptors"},
	{GENERIC(NVME_SC_SGL_INVALID_DATA), -EIO, true, "Data SGL Length Invalid"},
	{GENERIC(NVME_SC_SGL_INVALID_METADATA), -EIO, true, "Metadata SGL Length Invalid"},
	{GENERIC(NVME_SC_SGL_INVALID_TYPE), -EIO, true, "SGL Descriptor Type Invalid"},
	{GENERIC(NVME_SC_PRP_INVALID_OFFSET), -EIO, true, "PRP Offset Invalid"},
	{GENERIC(NVME_SC_AWU_EXCEEDED), -EINVAL, true, "Atomic Write Unit Exceeded"},
	{GENERIC(NVME_SC_OP_DENIED), -EIO, true, "Operation Denied"},
	{GENERIC(NVME_SC_SGL_INVALID_OFFSET), -EIO, true, "SGL Offset Invalid"},
	{GENERIC(NVME_SC_CMD_ABORTED_PREMEPT), -ECANCELED, true, "Aborted due to Preempt"},
	{GENERIC(NVME_SC_SANITIZE_FAILED), -EIO, true, "Sanitize Failed"},
	{GENERIC(NVME_SC_SANITIZE_IN_PROGRESS), -EIO, false, "Sanitize In Progress"},
	{GENERIC(NVME_SC_SGL_INVALID_GRANULARITY), -EIO, true, "SGL Granularity Invalid"},
	{GENERIC(NVME_SC_NS_WRITE_PROTECTED), -EROFS, true, "Namespace is Write Protected"},
	{GENERIC(NVME_SC_CMD_INTERRUPTED), -EIO, false, "Command Interrupted"},
	{GENERIC(NVME_SC_TRAN_TPORT_ERROR), -EIO, false, "Transient Transport Error"},
	{GENERIC(NVME_SC_ADMIN_CMD_MEDIA_NOT_READY), -EIO, false, "Admin Command Media Not Ready"},
	{GENERIC(NVME_SC_LBA_RANGE), -EINVAL, true, "LBA Out of Range"},
	{GENERIC(NVME_SC_CAP_EXCEEDED), -ENOSPC, true, "Capacity Exceeded"},
	{GENERIC(NVME_SC_NS_NOT_READY), -EIO, false, "Namespace Not Ready"},
	{GENERIC(NVME_SC_RESERVATION_CONFLICT), -EIO, true, "Reservation Conflict"},
	{GENERIC(NVME_SC_FORMAT_IN_PROGRESS), -EIO, false, "Format In Progress"},
	{SPECIFIC(NVME_SC_CQ_INVALID), -EIO, true, "Completion Queue Invalid"},
	{SPECIFIC(NVME_SC_QID_INVALID), -EIO, true, "Invalid Queue Identifier"},
	{SPECIFIC(NVME_SC_QUEUE_SIZE), -EIO, true, "Invalid Queue Size"},
	{SPECIFIC(NVME_SC_ABORT_LIMIT), -EIO, false, "Abort Command Limit Exceeded"},
	{SPECIFIC(NVME_SC_ASYNC_LIMIT), -EIO, true, "Asynchronous Event Request Limit Exceeded"},
	{SPECIFIC(NVME_SC_INVALID_VECTOR), -EIO, true, "Invalid Interrupt Vector"},
	{SPECIFIC(NVME_SC_INVALID_LOG_PAGE), -EOPNOTSUPP, true, "Invalid Log Page"},
	{SPECIFIC(NVME_SC_INVALID_FORMAT), -EIO, true, "Invalid Format"},
	{SPECIFIC(NVME_SC_INVALID_QUEUE), -EIO, true, "Invalid Queue Deletion"},
	{SPECIFIC(NVME_SC_FEATURE_NOT_SAVEABLE), -EOPNOTSUPP, true, "Feature Not Saveable"},
	{SPECIFIC(NVME_SC_FEATURE_NOT_CHANGEABLE), -EOPNOTSUPP, true, "Feature Not Changeable"},
	{SPECIFIC(NVME_SC_FEATURE_NOT_PER_NS), -EOPNOTSUPP, true, "Feature Not Per Namespace"},
	{SPECIFIC(NVME_SC_BAD_ATTRIBUTES), -EOPNOTSUPP, true, "Conflicting Attributes"},
	{SPECIFIC(NVME_SC_INVALID_PI), -EILSEQ, true, "Invalid Protection Information"},
	{SPECIFIC(NVME_SC_READ_ONLY), -EROFS, true, "Attempted Write to Read Only Range"},
	{SPECIFIC(NVME_SC_CMD_SIZE_LIMIT_EXCEEDED), -EINVAL, true, "Command Size Limit Exceeded"},
	{MEDIA(NVME_SC_WRITE_FAULT), -ENODATA, true, "Write Fault"},
	{MEDIA(NVME_SC_READ_ERROR), -ENODATA, true, "Unrecovered Read Error"},
	{MEDIA(NVME_SC_GUARD_CHECK), -EILSEQ, true, "End-to-end Guard Check Error"},
	{MEDIA(NVME_SC_APPTAG_CHECK), -EILSEQ, true, "End-to-end Application Tag Check Error"},
	{MEDIA(NVME_SC_REFTAG_CHECK), -EILSEQ, true, "End-to-end Reference Tag Check Error"},
	{MEDIA(NVME_SC_COMPARE_FAILED), -ENODATA, true, "Compare Failure"},
	{MEDIA(NVME_SC_ACCESS_DENIED), -ENODATA, true, "Access Denied"},
	{MEDIA(NVME_SC_UNWRITTEN_BLOCK), -ENODATA, true, "Deallocated or Unwritten Block"},
	{MEDIA(NVME_SC_STORAGE_TAG_CHECK), -EILSEQ, true, "End-to-End Storage Tag Check Error"},
	{PATH(NVME_SC_ANA_INTERNAL_PATH_ERROR), -EIO, false, "Internal Path Error"},
	{PATH(NVME_SC_ANA_PERSISTENT_LOSS), -EIO, true, "Asymmetric Access Persistent Loss"},
	{PATH(NVME_SC_ANA_INACCESSIBLE), -EIO, false, "Asymmetric Access Inaccessible"},
	{PATH(NVME_SC_ANA_TRANSITION), -EIO, false, "Asymmetric Access Transition"},
	{PATH(NVME_SC_CTRL_PATH_ERROR), -EIO, false, "Controller Pathing Error"},
	{PATH(NVME_SC_HOST_PATH_ERROR), -EIO, false, "Host Pathing Error"},
	{PATH(NVME_SC_CMD_ABORTED_BY_HOST), -ECANCELED, false, "Command Aborted By Host"},
};

static const struct status *
find(uint16_t status)
{
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++) {
		if (statuses[i].status == (status & NVME_STATUS_MASK))
			return &statuses[i];
	}
	return NULL;
}

int
nvme_status_errno(uint16_t status)
{
	const struct status *known = find(status);

	if ((status & NVME_STATUS_MASK) == 0)
		return 0;
	return known != NULL ? known->rc : -EIO;
}

const char *
nvme_status_name(uint16_t status)
{
	static _Thread_local char unknown[sizeof("status 0x123")];
	const struct status *known = find(status);

	if ((status & NVME_STATUS_MASK) == 0)
		return "Successful Completion";
	if (known != NULL)
		return known->name;
	snprintf(unknown, sizeof(unknown), "status 0x%03x", status & NVME_STATUS_MASK);
	return unknown;
}

bool
nvme_status_is_final(uint16_t status)
{
	const struct status *known = find(status);

	/* The device has tried by itself for as long as that made sense. */
	if ((status & NVME_STATUS_MASK) >> NVME_SCT_SHIFT == NVME_SCT_MEDIA)
		return true;
	return (status & NVME_DNR) != 0 || (known != NULL && known->final);
}
