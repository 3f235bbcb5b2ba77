/* SPDX-License-Identifier: BSD-3-Clause */
#include "data.h"

#include <errno.h>
#include <string.h>

#define PRP_LIST_ENTRIES (NVME_SLOT_PAGE / sizeof(uint64_t))
#define SGL_DESCRIPTORS  (NVME_SLOT_PAGE / sizeof(struct nvme_sgl))
#define PSDT_SGL         (1u << 6)

/* Data transfer: the last two bits of an opcode (NVMe 1.4 §6). */
#define TO_DEVICE   1u
#define FROM_DEVICE 2u

/* SGLS of the identify data (NVMe 1.4 §5.15.2.2). */
#define SGLS_SUPPORT(sgls) ((sgls)&3)
#define SGLS_ANY_BYTES     1u
#define SGLS_DWORDS        2u

#define unlikely(condition) __builtin_expect(!!(condition), 0)

static uint8_t *
slot_page(const struct nvme_qpair *qpair, uint16_t index)
{
	return qpair->memory + (size_t)index * NVME_SLOT_PAGE;
}

static uint64_t
slot_page_iova(const struct nvme_qpair *qpair, uint16_t index)
{
	return qpair->memory_iova + (uint64_t)index * NVME_SLOT_PAGE;
}

/* ---- the iovecs as the device sees them ---- */

/* Pieces in which they are contiguous, one after the other. */
struct walk {
	struct nvme_qpair *qpair;
	const struct iovec *iov;
	const struct iovec *end;
	uint64_t skip; /* bytes of iov that are done */
	uint64_t left; /* bytes of data that are not */
};

static struct walk
walk_begin(struct nvme_qpair *qpair, const struct nvme_request *request)
{
	return (struct walk){.qpair = qpair,
			     .iov = request->iov,
			     .end = request->iov + request->iovcnt,
			     .left = request->length};
}

/* false: there is no more; or, with walk->left, no memory that the device can use. */
static bool
walk_next(struct walk *walk, uint64_t *iova, uint64_t *length)
{
	while (walk->left > 0 && walk->iov < walk->end) {
		const struct iovec *iov = walk->iov;

		*length = iov->iov_len - walk->skip;
		if (*length > walk->left)
			*length = walk->left;
		if (*length > 0) {
			*iova = dma_translate(walk->qpair->dma,
					      (const uint8_t *)iov->iov_base + walk->skip, length,
					      &walk->qpair->dma_hint);
			if (*iova == DMA_UNMAPPED)
				return false;
			walk->skip += *length;
			walk->left -= *length;
		}
		if (walk->skip == iov->iov_len) {
			walk->iov++;
			walk->skip = 0;
		}
		if (*length > 0)
			return true;
	}
	return false;
}

/* ---- PRPs ---- */

/* Entries of one command: the first is PRP1. */
struct prps {
	uint64_t first;
	uint64_t *list;
	uint32_t count;
	uint64_t next; /* where the last piece ended */
};

/* Only the first piece may begin within a page, and only the last one end there. */
static bool
prps_add(struct prps *prps, uint64_t iova, uint64_t length, uint64_t page_size)
{
	const uint64_t end = iova + length;
	uint64_t entry = iova;

	if (prps->count == 0) {
		if (iova % sizeof(uint32_t) != 0)
			return false;
		prps->first = iova;
		prps->count = 1;
		entry = (iova & ~(page_size - 1)) + page_size;
	} else if (iova == prps->next) {
		entry = (iova + page_size - 1) & ~(page_size - 1);
	} else if (((iova | prps->next) & (page_size - 1)) != 0) {
		return false;
	}
	/* end - entry wraps where the page before has it all. */
	for (; (int64_t)(end - entry) > 0; entry += page_size) {
		if (prps->count > PRP_LIST_ENTRIES)
			return false;
		prps->list[prps->count++ - 1] = entry;
	}
	prps->next = end;
	return true;
}

static void
prps_finish(const struct prps *prps, uint64_t list_iova, struct nvme_sqe *sqe)
{
	sqe->prp1 = prps->first;
	if (prps->count == 1)
		sqe->prp2 = 0;
	else if (prps->count == 2)
		sqe->prp2 = prps->list[0];
	else
		sqe->prp2 = list_iova;
}

static bool
describe_by_prps(struct nvme_qpair *qpair, uint16_t index, const struct nvme_request *request,
		 struct nvme_sqe *sqe)
{
	struct walk walk = walk_begin(qpair, request);
	struct prps prps = {.list = (uint64_t *)slot_page(qpair, index)};
	uint64_t iova, length;

	while (walk_next(&walk, &iova, &length)) {
		if (!prps_add(&prps, iova, length, qpair->page_size))
			return false;
	}
	if (walk.left > 0)
		return false;
	prps_finish(&prps, slot_page_iova(qpair, index), sqe);
	return true;
}

/* ---- SGLs ---- */

static bool
describe_by_sgl(struct nvme_qpair *qpair, uint16_t index, const struct nvme_request *request,
		struct nvme_sqe *sqe)
{
	const uint32_t support = SGLS_SUPPORT(qpair->sgl_rules);
	struct nvme_sgl *segment = (struct nvme_sgl *)slot_page(qpair, index);
	struct walk walk = walk_begin(qpair, request);
	uint64_t iova, length;
	uint32_t count = 0;

	if (support != SGLS_ANY_BYTES && support != SGLS_DWORDS)
		return false;
	while (walk_next(&walk, &iova, &length)) {
		if (count == SGL_DESCRIPTORS ||
		    (support == SGLS_DWORDS && ((iova | length) & 3) != 0))
			return false;
		/* Pieces that touch may be of two mappings, which servers of vfio-user look up. */
		segment[count++] = (struct nvme_sgl){
			.address = iova, .length = (uint32_t)length, .type = NVME_SGL_DATA << 4};
	}
	if (walk.left > 0)
		return false;
	if (count == 1)
		sqe->sgl = segment[0];
	else
		sqe->sgl = (struct nvme_sgl){.address = slot_page_iova(qpair, index),
					     .length = count * (uint32_t)sizeof(segment[0]),
					     .type = NVME_SGL_LAST_SEGMENT << 4};
	sqe->flags |= PSDT_SGL;
	return true;
}

/* ---- copies ---- */

static uint8_t *
buffer_at(const struct nvme_qpair *qpair, uint8_t buffer)
{
	return qpair->buffers + (size_t)buffer * qpair->buffer_size;
}

/* Where the data of a slot is that is COPIED. */
static uint8_t *
copy_of(const struct nvme_qpair *qpair, uint16_t index)
{
	const struct nvme_slot *slot = &qpair->slots[index];

	return slot->buffer == NVME_NO_BUFFER ? slot_page(qpair, index)
					      : buffer_at(qpair, slot->buffer);
}

/* Between the iovecs and memory of ours; false: they end before. */
static bool
copy(const struct nvme_request *request, uint8_t *memory, bool to_iovecs)
{
	uint64_t left = request->length;

	for (uint32_t i = 0; i < request->iovcnt && left > 0; i++) {
		const struct iovec *iov = &request->iov[i];
		const uint64_t length = iov->iov_len < left ? iov->iov_len : left;

		if (to_iovecs)
			memcpy(iov->iov_base, memory, length);
		else
			memcpy(memory, iov->iov_base, length);
		memory += length;
		left -= length;
	}
	return left == 0;
}

static uint64_t
sum_of_iovecs(const struct nvme_request *request)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < request->iovcnt && sum < request->length; i++)
		sum += request->iov[i].iov_len;
	return sum;
}

static int
describe_copy(struct nvme_qpair *qpair, uint16_t index, const struct nvme_request *request,
	      struct nvme_sqe *sqe)
{
	struct nvme_slot *slot = &qpair->slots[index];
	struct prps prps = {.list = (uint64_t *)slot_page(qpair, index)};
	uint8_t *memory;

	if (request->length > qpair->buffer_size || sum_of_iovecs(request) < request->length)
		return -EINVAL;
	slot->buffer = NVME_NO_BUFFER;
	if (request->length > NVME_SLOT_PAGE) {
		if (qpair->free_buffer_count == 0)
			return -EAGAIN;
		slot->buffer = qpair->free_buffers[--qpair->free_buffer_count];
	}
	slot->flags |= NVME_SLOT_COPIED;
	qpair->copied++;
	memory = copy_of(qpair, index);
	if ((request->command.opcode & TO_DEVICE) != 0)
		copy(request, memory, false);
	/* It is contiguous, and a list of one page is long enough for it (NVME_DATA_MAX). */
	prps_add(&prps, qpair->memory_iova + (uint64_t)(memory - qpair->memory), request->length,
		 qpair->page_size);
	prps_finish(&prps, slot_page_iova(qpair, index), sqe);
	return 0;
}

void
nvme_data_release(struct nvme_qpair *qpair, uint16_t index, const struct nvme_request *request,
		  bool good)
{
	struct nvme_slot *slot = &qpair->slots[index];

	if ((slot->flags & NVME_SLOT_COPIED) == 0)
		return;
	slot->flags &= (uint8_t)~NVME_SLOT_COPIED;
	if (good && (request->command.opcode & FROM_DEVICE) != 0)
		copy(request, copy_of(qpair, index), true);
	if (slot->buffer != NVME_NO_BUFFER)
		qpair->free_buffers[qpair->free_buffer_count++] = slot->buffer;
}

/* ---- all of it ---- */

static __attribute__((noinline)) int
describe_any(struct nvme_qpair *qpair, uint16_t index, const struct nvme_request *request,
	     struct nvme_sqe *sqe)
{
	if (describe_by_prps(qpair, index, request, sqe) ||
	    describe_by_sgl(qpair, index, request, sqe))
		return 0;
	return describe_copy(qpair, index, request, sqe);
}

int
nvme_data_describe(struct nvme_qpair *qpair, uint16_t index, const struct nvme_request *request,
		   struct nvme_sqe *sqe)
{
	const uint64_t page_size = qpair->page_size;
	uint64_t length = request->length, iova, offset;

	/* Most are one piece in one page, or two. */
	if (unlikely(request->iovcnt == 0 || request->iov->iov_len < length))
		return describe_any(qpair, index, request, sqe);
	iova = dma_translate(qpair->dma, request->iov->iov_base, &length, &qpair->dma_hint);
	offset = iova & (page_size - 1);
	/* What is not mapped is not aligned, either. */
	if (unlikely(length != request->length || iova % sizeof(uint32_t) != 0 ||
		     offset + length > 2 * page_size))
		return describe_any(qpair, index, request, sqe);
	sqe->prp1 = iova;
	sqe->prp2 = offset + length > page_size ? iova - offset + page_size : 0;
	return 0;
}
