/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A slow virtio-blk device on a copy of the guest's memory and of the disk: the judge in
 * fuzz_blk.c. It completes requests in the order of the device that it judges, and says so (`lost`)
 * when it cannot know what comes of them.
 */
#ifndef VHOSTD_FUZZ_BLK_MODEL_H
#define VHOSTD_FUZZ_BLK_MODEL_H

#include <linux/virtio_blk.h>

#include "vhost/queue.h"
#include "virtq_model.h"

#define MAX_RANGES   16
#define MAX_READABLE (2u << 20)
#define DISCARD_MAX  (2u << 30)  /* bytes; a limit of the disk counts first */
#define MALLOC_MAX   (32u << 20) /* that of a malloc disk */
#define ZEROES_MAX   (32u << 20)
#define SECTOR       512
#define DISK_BYTES   32768
#define MEMORY_BYTES 0x4000
/* Where the rings are in memory; the rest of the page is for buffers, too. */
#define DESC_AT  0
#define AVAIL_AT 0x480
#define USED_AT  0x600
/* In struct footprint: not one request, but */
#define SEVERAL 254
#define RING    255

struct blk_disk {
	const char *controller, *bdev;
	uint32_t block_size;
	bool read_only, is_null;
};

static struct {
	const struct blk_disk *device;
	uint8_t *memory; /* the guest's, as it is */
	uint8_t shadow[MEMORY_BYTES];
	uint8_t disk[DISK_BYTES];
	bool dirty; /* it was written */
	struct model_ring ring;
	bool packed, event_idx;
	uint16_t avail, used; /* split: indexes; packed: places */
	bool broken;
	bool lost; /* what happens is not followed any more */
} model;

static struct model_chain chains[VHOST_QUEUE_BATCH];

/*
 * Who has to do with each byte of memory and each sector: 0 nobody, else a request of the batch,
 * from 1.
 */
struct footprint {
	uint8_t touched, written;
};
static struct footprint memory_prints[MEMORY_BYTES], disk_prints[DISK_BYTES / SECTOR];
static uint8_t executing; /* its number; 0: it is alone */

static uint16_t
shadow_u16(uint32_t offset)
{
	uint16_t value;

	memcpy(&value, model.shadow + offset, sizeof(value));
	return value;
}

static size_t
gather(const struct model_chain *chain, uint8_t *to)
{
	size_t size = 0;

	for (uint32_t i = 0; i < chain->readable_count; i++) {
		require(size + chain->iov[i].iov_len <= MAX_READABLE);
		memcpy(to + size, chain->iov[i].iov_base, chain->iov[i].iov_len);
		size += chain->iov[i].iov_len;
	}
	return size;
}

/* Fills the writable part from its beginning. */
static void
scatter(const struct model_chain *chain, const uint8_t *from, size_t size)
{
	for (uint32_t i = chain->readable_count; i < chain->count && size > 0; i++) {
		size_t part = chain->iov[i].iov_len < size ? chain->iov[i].iov_len : size;

		memcpy(chain->iov[i].iov_base, from, part);
		from += part;
		size -= part;
	}
}

/* Whether the disk has that range. */
static bool
range_is_valid(uint64_t sector, uint64_t bytes)
{
	uint64_t mask = model.device->block_size - 1;

	return sector <= DISK_BYTES / SECTOR && bytes <= DISK_BYTES - sector * SECTOR &&
	       ((sector * SECTOR | bytes) & mask) == 0;
}

/* One of those of a batch touches what another one changes. */
static void
leave_print(struct footprint *print, uint8_t who, bool writes)
{
	if (print->written != 0 && print->written != who)
		model.lost = true;
	if (writes && print->touched != 0 && print->touched != who)
		model.lost = true;
	print->touched = print->touched == 0 || print->touched == who ? who : SEVERAL;
	if (writes)
		print->written = who;
}

static void
leave_disk_prints(uint64_t sector, uint64_t bytes, bool writes)
{
	if (executing == 0)
		return;
	for (uint64_t i = 0; i < bytes; i += SECTOR)
		leave_print(&disk_prints[sector + i / SECTOR], executing, writes);
}

static void
leave_memory_prints(uint32_t count)
{
	size_t used_bytes = 6 + model.ring.size * sizeof(struct vring_used_elem);
	size_t avail_bytes = 6 + model.ring.size * sizeof(uint16_t);
	size_t desc_bytes = model.ring.size * sizeof(struct vring_desc);

	memset(memory_prints, 0, sizeof(memory_prints));
	memset(disk_prints, 0, sizeof(disk_prints));
	for (size_t i = 0; i < used_bytes; i++)
		memory_prints[USED_AT + i] = (struct footprint){RING, RING};
	for (size_t i = 0; i < avail_bytes; i++)
		memory_prints[AVAIL_AT + i].touched = RING;
	for (size_t i = 0; i < desc_bytes; i++)
		memory_prints[DESC_AT + i] = (struct footprint){RING, model.packed ? RING : 0};
	for (uint32_t i = 0; i < count; i++) {
		for (uint32_t j = 0; j < chains[i].count; j++) {
			const struct iovec *iov = &chains[i].iov[j];
			size_t at = (size_t)((uint8_t *)iov->iov_base - model.shadow);

			for (size_t k = 0; k < iov->iov_len; k++)
				leave_print(&memory_prints[at + k], (uint8_t)(i + 1),
					    j >= chains[i].readable_count);
		}
	}
}

static uint8_t
model_in(const struct model_chain *chain, uint64_t sector, uint32_t *written)
{
	uint64_t bytes = chain->writable_bytes - 1;

	if (bytes == 0 || !range_is_valid(sector, bytes))
		return VIRTIO_BLK_S_IOERR;
	leave_disk_prints(sector, bytes, false);
	if (!model.device->is_null)
		scatter(chain, model.disk + sector * SECTOR, bytes);
	*written = (uint32_t)bytes + 1;
	return VIRTIO_BLK_S_OK;
}

static void
change_disk(uint64_t sector, const uint8_t *from, size_t size)
{
	if (model.device->is_null || size == 0)
		return;
	leave_disk_prints(sector, size, true);
	model.dirty = true;
	if (from != NULL)
		memcpy(model.disk + sector * SECTOR, from, size);
	else
		memset(model.disk + sector * SECTOR, 0, size);
}

static uint8_t
model_out(uint64_t sector, const uint8_t *data, size_t size)
{
	if (size == 0 || model.device->read_only || !range_is_valid(sector, size))
		return VIRTIO_BLK_S_IOERR;
	change_disk(sector, data, size);
	return VIRTIO_BLK_S_OK;
}

static uint8_t
model_get_id(const struct model_chain *chain, uint32_t *written)
{
	char id[VIRTIO_BLK_ID_BYTES] = {0};
	uint64_t bytes = chain->writable_bytes - 1;
	const char *name = model.device->bdev;

	memcpy(id, name, strnlen(name, sizeof(id)));
	if (bytes > sizeof(id))
		bytes = sizeof(id);
	scatter(chain, (uint8_t *)id, bytes);
	*written = (uint32_t)bytes + 1;
	return VIRTIO_BLK_S_OK;
}

static uint8_t
model_ranges(uint32_t type, const uint8_t *data, size_t size)
{
	bool discard = type == VIRTIO_BLK_T_DISCARD;
	uint64_t max = discard ? (model.device->is_null ? DISCARD_MAX : MALLOC_MAX) : ZEROES_MAX;
	struct virtio_blk_discard_write_zeroes range;

	if (model.device->read_only || size == 0 || size % sizeof(range) != 0 ||
	    size / sizeof(range) > MAX_RANGES)
		return VIRTIO_BLK_S_IOERR;
	for (; size > 0; size -= sizeof(range), data += sizeof(range)) {
		uint64_t bytes;

		memcpy(&range, data, sizeof(range));
		bytes = (uint64_t)range.num_sectors * SECTOR;
		if (range.flags & ~(discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
			return VIRTIO_BLK_S_UNSUPP;
		if (bytes > max || !range_is_valid(range.sector, bytes))
			return VIRTIO_BLK_S_IOERR;
		change_disk(range.sector, NULL, bytes);
	}
	return VIRTIO_BLK_S_OK;
}

static uint8_t
model_request(const struct model_chain *chain, uint32_t *written)
{
	static uint8_t readable[MAX_READABLE];
	size_t size = gather(chain, readable), rest = size - sizeof(struct virtio_blk_outhdr);
	const uint8_t *data = readable + sizeof(struct virtio_blk_outhdr);
	struct virtio_blk_outhdr header;

	*written = 1;
	if (size < sizeof(header))
		return VIRTIO_BLK_S_IOERR;
	memcpy(&header, readable, sizeof(header));
	switch (header.type) {
	case VIRTIO_BLK_T_IN:
		return model_in(chain, header.sector, written);
	case VIRTIO_BLK_T_OUT:
		return model_out(header.sector, data, rest);
	case VIRTIO_BLK_T_FLUSH:
		return VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_GET_ID:
		return model_get_id(chain, written);
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return model_ranges(header.type, data, rest);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* The next chain, if there is one; as check_popped() of fuzz_virtq.c. */
static enum model_verdict
model_next(uint16_t *avail, uint16_t avail_index, uint16_t *room, struct model_chain *chain)
{
	enum model_verdict verdict;
	uint16_t waiting, head;

	if (model.packed) {
		verdict = model_packed(&model.ring, *avail, *room, chain);
		if (verdict != MODEL_CHAIN)
			return verdict;
		*avail = model_next_place(&model.ring, *avail, chain->ring_descs);
		*room -= chain->ring_descs;
		return verdict;
	}
	waiting = avail_index - *avail;
	if (waiting == 0)
		return MODEL_NONE;
	if (waiting > model.ring.size)
		return MODEL_BROKEN;
	head = shadow_u16(AVAIL_AT + 4 + 2 * (*avail & (model.ring.size - 1)));
	verdict = model_split(&model.ring, head, chain);
	if (verdict == MODEL_CHAIN)
		(*avail)++;
	return verdict;
}

/* All that is popped in one go. */
static uint32_t
model_pop(void)
{
	uint16_t avail = model.avail, avail_index = shadow_u16(AVAIL_AT + 2);
	uint16_t room = model.packed ? model.ring.size : 0;
	uint32_t count = 0;

	while (count < VHOST_QUEUE_BATCH && !model.broken) {
		enum model_verdict verdict = model_next(&avail, avail_index, &room, &chains[count]);

		if (verdict == MODEL_NONE)
			break;
		if (verdict == MODEL_EITHER) {
			model.lost = true;
			return 0;
		}
		for (uint32_t i = 0; i < count; i++) {
			if (chains[i].id == chains[count].id)
				verdict = MODEL_BROKEN;
		}
		model.broken = verdict == MODEL_BROKEN;
		if (model.broken)
			break;
		model.avail = avail;
		count++;
	}
	return count;
}

struct used {
	uint32_t len, id;
	uint16_t descs;
};

static void
model_store_used(const struct used *used, uint16_t place)
{
	uint16_t bits = place & MODEL_WRAP ? MODEL_AVAIL | MODEL_USED : 0;
	struct vring_packed_desc desc = {.len = used->len,
					 .id = (uint16_t)used->id,
					 .flags = bits | (used->len ? VRING_DESC_F_WRITE : 0)};
	struct vring_used_elem element = {.id = used->id, .len = used->len};

	if (model.packed)
		memcpy(model.shadow + DESC_AT + (place & (MODEL_WRAP - 1)) * sizeof(desc) +
			       offsetof(struct vring_packed_desc, len),
		       &desc.len, sizeof(desc) - offsetof(struct vring_packed_desc, len));
	else
		memcpy(model.shadow + USED_AT + 4 +
			       (place & (model.ring.size - 1)) * sizeof(element),
		       &element, sizeof(element));
}

/* Which one the device has used at that place: requests may end in any order. */
static uint16_t
used_id_at(uint16_t place)
{
	struct vring_packed_desc desc;
	struct vring_used_elem element;

	if (model.packed) {
		memcpy(&desc, model.memory + DESC_AT + (place & (MODEL_WRAP - 1)) * sizeof(desc),
		       sizeof(desc));
		return desc.id;
	}
	memcpy(&element,
	       model.memory + USED_AT + 4 + (place & (model.ring.size - 1)) * sizeof(element),
	       sizeof(element));
	return (uint16_t)element.id;
}

/* Takes the one of that id, or any one when there is none (which will be seen). */
static struct used
take_used(struct used *list, uint32_t count, uint16_t id)
{
	struct used found;
	uint32_t i;

	for (i = 0; i + 1 < count && list[i].id != id; i++)
		;
	found = list[i];
	list[i] = list[count - 1];
	return found;
}

/* The used entries of a batch, in the device's order. */
static void
model_use(struct used *list, uint32_t count)
{
	uint16_t place = model.used;

	for (; count > 0; count--) {
		struct used used = take_used(list, count, used_id_at(place));

		model_store_used(&used, place);
		place = model.packed ? model_next_place(&model.ring, place, used.descs)
				     : (uint16_t)(place + 1);
	}
	model.used = place;
	if (!model.packed)
		memcpy(model.shadow + USED_AT + 2, &place, sizeof(place));
}

/* One poll of the queue. Whether there was anything. */
static bool
model_poll(void)
{
	uint32_t count = model_pop();
	struct used list[VHOST_QUEUE_BATCH];

	if (count > 1)
		leave_memory_prints(count);
	for (uint32_t i = 0; i < count; i++) {
		const struct model_chain *chain = &chains[i];

		list[i] = (struct used){.id = chain->id, .descs = chain->ring_descs};
		executing = count > 1 ? (uint8_t)(i + 1) : 0;
		if (chain->writable_bytes == 0) {
			model.broken = true;
		} else {
			const struct iovec *last = &chain->iov[chain->count - 1];
			uint8_t status = model_request(chain, &list[i].len);

			((uint8_t *)last->iov_base)[last->iov_len - 1] = status;
		}
	}
	if (count > 0)
		model_use(list, count);
	return count > 0;
}

#endif
