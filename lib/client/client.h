/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vhost-user front-end as a library: the side that QEMU plays. Integration tests, fuzzers and
 * the load generator (lib/load, of vhostctl bench, too) use it against vhostd. It needs libc only
 * and shares no code with the daemon, so that it is an independent check.
 *
 * Layers, each usable without the ones after it:
 *   struct client         a connection: every message that QEMU 7.2 sends, and raw bytes
 *   struct client_memory  guest memory in regions, each part of a memfd
 *   struct client_ring    the driver side of one virtqueue, split or packed
 *   struct client_device  plug, start, stop and reconnect in the order of QEMU
 *   struct client_blk     virtio-blk requests on one ring
 *   struct client_scsi    virtio-scsi requests on one ring; control requests, events
 *   struct client_inflight_map  the region in which the back-end tracks what it has taken
 *
 * Conventions. Functions return 0 or a negative errno, unless they say otherwise:
 *   -ETIMEDOUT   the deadline passed
 *   -ECONNRESET  the back-end closed the connection
 *   -EREMOTEIO   the back-end refused (acknowledgement not zero, or a failed GET_CONFIG)
 *   -EPROTO      the back-end broke the specification (wrong reply, wrong used entry)
 * No object may be used by two threads at a time. Nothing is printed. Every wait has a deadline:
 * message functions use the connection's timeout, the others take one in milliseconds.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_scsi.h>

#include "protocol.h"

/* ---------------------------------------------------------------- connection (message.c) */

struct client {
	int fd;         /* connected socket, or -1 */
	int backend_fd; /* our end of the back-end's request channel, or -1 */
	int timeout_ms; /* of each message function; may be changed at any time */
};

struct client_message {
	uint32_t request;
	uint32_t flags; /* all header flags, the version included */
	uint32_t size;  /* of the payload */
	union client_payload payload;
	int fds[CLIENT_MAX_FDS];
	unsigned int fd_count;
};

/* Connects to the socket at path; waits up to timeout_ms for it to appear and accept. */
int client_connect(struct client *c, const char *path, int timeout_ms);

/* Uses a connected socket, which it then owns. */
void client_attach(struct client *c, int fd, int timeout_ms);

/* Closes what is open; may be called again. */
void client_close(struct client *c);

/* Sends the message as its fields say. Its fds stay the caller's. */
int client_send(struct client *c, const struct client_message *message);

/* Sends any bytes, with any fds attached to the first one. */
int client_send_raw(struct client *c, const void *data, size_t size, const int *fds,
		    unsigned int fd_count);

/*
 * Receives one message within timeout_ms. The fds received are the caller's to close.
 * A payload larger than CLIENT_MAX_PAYLOAD is -EPROTO.
 */
int client_receive(struct client *c, struct client_message *message, int timeout_ms);

/* Waits until the back-end closes the connection. Data that arrives meanwhile is dropped. */
int client_wait_closed(struct client *c, int timeout_ms);

/* Closes the descriptors of a received message. */
void client_message_close_fds(struct client_message *message);

/* ------------------------------------------------------------------ requests (request.c) */
/*
 * need_reply sets NEED_REPLY and waits for the acknowledgement; whether REPLY_ACK was negotiated
 * is the caller's business. fd -1 means "no descriptor" (0x100 in the payload).
 * Descriptors that are passed stay the caller's; descriptors that are returned become the caller's.
 */

struct client_memory;

struct client_inflight {
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size;
	int fd; /* or -1 */
};

/* A request with any payload that has no reply of its own. */
int client_request(struct client *c, uint32_t request, const void *payload, uint32_t size, int fd,
		   bool need_reply);

int client_get_features(struct client *c, uint64_t *features);
int client_set_features(struct client *c, uint64_t features, bool need_reply);
int client_get_protocol_features(struct client *c, uint64_t *features);
int client_set_protocol_features(struct client *c, uint64_t features, bool need_reply);
int client_get_queue_num(struct client *c, uint64_t *queues);
int client_set_owner(struct client *c, bool need_reply);
int client_reset_owner(struct client *c, bool need_reply);
int client_set_mem_table(struct client *c, const struct client_memory *memory, bool need_reply);
int client_set_vring_num(struct client *c, uint32_t queue, uint32_t size, bool need_reply);
int client_set_vring_base(struct client *c, uint32_t queue, uint32_t base, bool need_reply);
int client_set_vring_addr(struct client *c, const struct client_vring_addr *addr, bool need_reply);
int client_set_vring_kick(struct client *c, uint32_t queue, int fd, bool need_reply);
int client_set_vring_call(struct client *c, uint32_t queue, int fd, bool need_reply);
int client_set_vring_err(struct client *c, uint32_t queue, int fd, bool need_reply);
int client_set_vring_enable(struct client *c, uint32_t queue, bool enable, bool need_reply);
int client_get_vring_base(struct client *c, uint32_t queue, uint32_t *base);

/* The reply must have the offset and size that were asked for; size up to CLIENT_CONFIG_SPACE. */
int client_get_config(struct client *c, uint32_t offset, uint32_t size, void *data);
int client_set_config(struct client *c, uint32_t offset, uint32_t size, const void *data,
		      bool need_reply);

/* num_queues and queue_size are sent, the other fields are filled from the reply. */
int client_get_inflight_fd(struct client *c, struct client_inflight *inflight);
int client_set_inflight_fd(struct client *c, const struct client_inflight *inflight,
			   bool need_reply);

/* Waits for the reply that LOG_SHMFD promises. */
int client_set_log_base(struct client *c, int fd, uint64_t size, uint64_t offset);

/* Makes the channel for the back-end's own requests and keeps its other end in backend_fd. */
int client_set_backend_fd(struct client *c, bool need_reply);

/* Receives one request of the back-end; client_backend_answer() acknowledges it if asked to. */
int client_backend_receive(struct client *c, struct client_message *message, int timeout_ms);
int client_backend_answer(struct client *c, const struct client_message *message, uint64_t result);

/* Receives and acknowledges a CONFIG_CHANGE request; another request is -EPROTO. */
int client_backend_wait_config_change(struct client *c, int timeout_ms);

/* -------------------------------------------------------------- guest memory (memory.c) */

/* Sizes, addresses and offsets are multiples of 4096, except in a deliberate fault. */
struct client_region_layout {
	uint64_t gpa;       /* guest-physical address */
	uint64_t user_addr; /* address in "QEMU", differs from ours and from gpa */
	uint64_t size;
	uint64_t mmap_offset; /* where the region starts in its file */
	unsigned int file;    /* regions with equal numbers share one memfd */
};

struct client_region {
	struct client_region_layout layout;
	int fd;
	uint8_t *data;      /* our mapping of the region's first byte */
	uint64_t allocated; /* bytes, from the start */
};

struct client_memory {
	struct client_region regions[CLIENT_MAX_REGIONS];
	unsigned int count;
	unsigned int next; /* region that the next allocation tries first */
};

/* What a guest above 4 GiB has, and more: gaps, shared and own files, mmap offsets. */
extern const struct client_region_layout client_default_layout[];
extern const unsigned int client_default_layout_count;

/* On an error nothing is left to destroy. */
int client_memory_create(struct client_memory *memory, const struct client_region_layout *layout,
			 unsigned int count);
void client_memory_destroy(struct client_memory *memory);

/*
 * Allocates from one region, the next one in turn, so that neighbours in time are apart in
 * memory; alignment is a power of two. Freed all at once with the memory. -ENOMEM when full.
 */
int client_memory_alloc(struct client_memory *memory, uint64_t size, uint64_t alignment,
			uint64_t *gpa);
int client_memory_alloc_in(struct client_memory *memory, unsigned int region, uint64_t size,
			   uint64_t alignment, uint64_t *gpa);

/* NULL unless the whole range lies in one region. */
void *client_memory_ptr(const struct client_memory *memory, uint64_t gpa, uint64_t size);

/* User address of gpa, for SET_VRING_ADDR; 0 if it is in no region. */
uint64_t client_memory_user_addr(const struct client_memory *memory, uint64_t gpa);

/* Copies, also over region borders; -EFAULT if the range is not all guest memory. */
int client_memory_write(struct client_memory *memory, uint64_t gpa, const void *data, size_t size);
int client_memory_read(const struct client_memory *memory, uint64_t gpa, void *data, size_t size);

/* Memory hot-plug: follow with client_set_mem_table(). The region removed is the last one. */
int client_memory_add(struct client_memory *memory, const struct client_region_layout *layout);
int client_memory_remove(struct client_memory *memory);

/* ---------------------------------------------------------------------- rings (ring.c) */

struct client_segment {
	uint64_t gpa;
	uint32_t len;
	bool device_writes;
};

struct client_used {
	uint64_t tag; /* as given to client_ring_add() */
	uint32_t len; /* bytes that the device says it wrote */
	uint16_t head;
};

struct client_ring;

/* One ring format. */
struct client_ring_ops {
	/* Bytes of the descriptor, driver (avail) and device (used) areas for a size. */
	void (*area_sizes)(uint16_t size, uint64_t sizes[3]);
	void (*attach)(struct client_ring *ring, void *areas[3]);
	int (*add)(struct client_ring *ring, const struct client_segment *segments,
		   unsigned int count, bool indirect, uint64_t tag);
	void (*publish)(struct client_ring *ring);
	bool (*pending)(const struct client_ring *ring);
	int (*pop)(struct client_ring *ring, struct client_used *used);
	/* Asked once after each publish: EVENT_IDX looks at what was added since the last time. */
	bool (*wants_kick)(struct client_ring *ring);
	/* Tells the device what calls_suppressed and used_index ask of it. */
	void (*set_calls)(struct client_ring *ring);
	/* What SET_VRING_BASE needs so that the device goes on behind its last used entry. */
	uint32_t (*resume_base)(const struct client_ring *ring);
};

struct client_ring_slot {
	uint64_t tag;
	uint16_t descriptors; /* of the chain that starts here; 0 when it is not outstanding */
	uint16_t next_free;
	uint64_t table_gpa; /* indirect table, or 0 */
};

/* Each is one thread's: no two are in the same cache line. */
struct client_ring {
	/* set once */
	const struct client_ring_ops *ops;
	struct client_memory *memory;
	uint16_t size;
	uint16_t indirect_max;          /* descriptors in one indirect table */
	bool event_idx;                 /* VIRTIO_F_EVENT_IDX was negotiated */
	uint64_t area_gpas[3];          /* descriptors, avail (driver), used (device) */
	int kick_fd, call_fd, err_fd;   /* eventfds, not blocking */
	struct client_ring_slot *slots; /* by head descriptor; packed: by buffer id */

	/* the shared memory of a split ring, for faults on purpose; NULL in a packed one */
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;

	/* the shared memory of a packed ring, for the same; NULL in a split one */
	struct vring_packed_desc *packed;
	struct vring_packed_desc_event *driver_event;
	struct vring_packed_desc_event *device_event;

	/* driver state; packed: the indices are positions in the ring, below size */
	uint16_t free_head;
	uint16_t free_count;  /* descriptors */
	uint16_t avail_index; /* next to be filled, perhaps not published yet */
	uint16_t used_index;  /* next to be popped */
	uint16_t outstanding; /* chains */
	uint16_t unkicked;    /* heads (packed: descriptors) added since the last kick decision */
	bool calls_suppressed;

	/* driver state of a packed ring */
	bool avail_wrap, used_wrap;
	struct vring_packed_desc *withheld; /* the first one not published; its flags are last */
	uint16_t withheld_flags;
} __attribute__((aligned(64)));

/*
 * Allocates the ring and its indirect tables in memory, which must outlive it. indirect_max 0
 * means no tables. features as negotiated: of them VIRTIO_F_RING_PACKED and
 * VIRTIO_RING_F_EVENT_IDX matter. size is up to 32768, and for a split ring a power of two.
 */
int client_ring_create_with(struct client_ring *ring, struct client_memory *memory, uint16_t size,
			    uint16_t indirect_max, uint64_t features);

/* The same without features: a split ring. */
int client_ring_create(struct client_ring *ring, struct client_memory *memory, uint16_t size,
		       uint16_t indirect_max);
void client_ring_destroy(struct client_ring *ring);

/* As a driver does at initialisation: empty, indices 0, calls wanted. */
void client_ring_reset(struct client_ring *ring);

/* Addresses for SET_VRING_ADDR. */
void client_ring_addr(const struct client_ring *ring, uint32_t queue,
		      struct client_vring_addr *addr);

/*
 * Puts one chain on the ring, in the order of the segments, as descriptors or as one indirect
 * table. The device sees it after client_ring_publish(). -ENOSPC when there is no room.
 */
int client_ring_add(struct client_ring *ring, const struct client_segment *segments,
		    unsigned int count, bool indirect, uint64_t tag);

/* Makes everything added visible to the device, with one store. */
void client_ring_publish(struct client_ring *ring);

/* Writes the kick eventfd if the device asks for it. */
int client_ring_kick(struct client_ring *ring);
int client_ring_kick_always(struct client_ring *ring);

/* 1 and *used filled, 0 when there is none, -EPROTO for an id that is not outstanding. */
int client_ring_pop(struct client_ring *ring, struct client_used *used);

/*
 * Waits until a used entry is there, by the call eventfd as a driver does; or by polling when
 * calls are suppressed. A call that never comes is -ETIMEDOUT, even if the entry is there.
 */
int client_ring_wait(struct client_ring *ring, int timeout_ms);

/* The same by polling in any case. */
int client_ring_poll(struct client_ring *ring, int timeout_ms);

/*
 * Asks the device not to send calls (or to send them again). With EVENT_IDX a split ring has no
 * way to say so: the event index is kept behind the used index, where the device never passes.
 */
void client_ring_suppress_calls(struct client_ring *ring, bool suppress);

/* 0 when the device has signalled the error eventfd; clears it. */
int client_ring_wait_error(struct client_ring *ring, int timeout_ms);

/* What SET_VRING_BASE needs so that the device goes on behind its last used entry. */
uint32_t client_ring_resume_base(const struct client_ring *ring);

/* Base of a packed ring: positions below 0x8000 and wrap counters (vhost-user, "vring state"). */
uint32_t client_packed_base(uint16_t avail, bool avail_wrap, uint16_t used, bool used_wrap);

/*
 * Faults in a split ring: any head on the avail ring; any avail index, published at once. Then
 * only reset.
 */
void client_ring_put_head(struct client_ring *ring, uint16_t head);
void client_ring_set_avail_index(struct client_ring *ring, uint16_t index);

/*
 * Faults in a packed ring: any descriptor at the next position, seen after client_ring_publish().
 * Where the AVAIL and USED bits of its flags are 0 it is available; a 1 turns that bit over.
 * Then only reset.
 */
void client_ring_put_descriptor(struct client_ring *ring, const struct vring_packed_desc *desc);

/* ------------------------------------------------------------------ device (device.c) */

#define CLIENT_MAX_QUEUES 66 /* of a SCSI controller, with those for control and events */

struct client_options {
	unsigned int queues;   /* 0: 1 */
	uint64_t start_mask;   /* queues of the first 64 that the guest uses; 0: all */
	uint16_t queue_size;   /* 0: 128 */
	uint16_t indirect_max; /* 0: 128; tables are made only if INDIRECT_DESC is negotiated */
	uint64_t features;     /* accepted of what is offered; 0: CLIENT_DEFAULT_FEATURES */
	uint64_t protocol_features; /* the same; 0: CLIENT_DEFAULT_PROTOCOL_FEATURES */
	uint32_t config_size;       /* asked at plug; 0: 60, as QEMU 7.2 */
	int timeout_ms;             /* 0: 5000 */
	const struct client_region_layout *layout; /* NULL: client_default_layout */
	unsigned int layout_count;
};

/* Everything virtio-blk but EVENT_IDX and the packed ring. */
extern const uint64_t CLIENT_DEFAULT_FEATURES;
extern const uint64_t CLIENT_DEFAULT_PROTOCOL_FEATURES;

struct client_device {
	struct client client;
	struct client_memory memory;
	struct client_options options; /* defaults filled in */
	char *path;
	uint64_t offered_features;
	uint64_t features; /* negotiated */
	uint64_t protocol_features;
	uint64_t max_queues; /* of GET_QUEUE_NUM, or 1 */
	struct virtio_blk_config config;
	struct client_inflight inflight; /* fd -1 until the first start */
	struct client_ring *rings;       /* options.queues of them, as the features say */
	uint32_t *bases;                 /* where each queue goes on at the next start */
	bool started;
};

/* Connects and plugs: everything that QEMU sends before the guest's driver is there. */
int client_device_open(struct client_device *device, const char *path,
		       const struct client_options *options);

/* Closes the connection without a stop, as a QEMU that dies, and frees everything. */
void client_device_close(struct client_device *device);

/* The driver is ready (or the machine resumed): queues run from bases[]. */
int client_device_start(struct client_device *device);

/* Stops all queues. The back-end has completed what it took; bases[] are what it answered. */
int client_device_stop(struct client_device *device);

/* The guest reboots: rings emptied, a new in-flight region at the next start. Only when stopped. */
void client_device_reset(struct client_device *device);

/*
 * After the connection broke or the daemon restarted: connects, plugs and starts (if it was
 * started) with the in-flight region of before and from each used index. A packed ring shows no
 * used index, so QEMU repeats the base of the last start, and the back-end must know better from
 * the in-flight region; so it is here. Without such a region, where QEMU can only be wrong,
 * the base is found in the ring.
 */
int client_device_reconnect(struct client_device *device);

/* What QEMU sends on running queues when a migration starts and when it is cancelled. */
int client_device_start_log(struct client_device *device, int fd, uint64_t size);
int client_device_stop_log(struct client_device *device);

/* ------------------------------------------------------- in-flight region (inflight.c) */
/*
 * The layouts of the vhost-user specification ("Inflight I/O tracking"). The region holds one
 * queue after the other; the back-end alone writes it, and tests do.
 */

struct client_inflight_split_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next; /* in the last batch */
	uint64_t counter;
};
static_assert(sizeof(struct client_inflight_split_desc) == 16, "DescStateSplit");

struct client_inflight_split {
	uint64_t features;
	uint16_t version; /* 1; 0: not initialised */
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct client_inflight_split_desc desc[];
};
static_assert(sizeof(struct client_inflight_split) == 16, "QueueRegionSplit");

struct client_inflight_packed_desc {
	uint8_t inflight;
	uint8_t padding;
	uint16_t next;
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint16_t id;
	uint16_t flags;
	uint32_t len;
	uint64_t addr;
};
static_assert(sizeof(struct client_inflight_packed_desc) == 32, "DescStatePacked");

struct client_inflight_packed {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	uint16_t used_idx;
	uint16_t old_used_idx;
	uint8_t used_wrap_counter;
	uint8_t old_used_wrap_counter;
	uint8_t padding[7];
	struct client_inflight_packed_desc desc[];
};
static_assert(offsetof(struct client_inflight_packed, desc) == 32, "QueueRegionPacked");

struct client_inflight_map {
	uint8_t *data;
	uint64_t size;       /* of the region */
	uint64_t queue_size; /* bytes from one queue to the next */
	unsigned int queues;
	void *mapping; /* page-aligned */
	uint64_t mapping_size;
};

/* A region of ours, zeroed, for SET_INFLIGHT_FD: num_queues and queue_size may be any. */
int client_inflight_create(struct client_inflight *inflight, uint64_t mmap_size,
			   uint16_t num_queues, uint16_t queue_size);

/* Maps what the back-end gave. -EPROTO if the file is smaller than it says. */
int client_inflight_map(struct client_inflight_map *map, const struct client_inflight *inflight);
void client_inflight_unmap(struct client_inflight_map *map);

/* A queue's part, NULL if the region cannot hold one of desc_num entries there. */
struct client_inflight_split *client_inflight_split(const struct client_inflight_map *map,
						    unsigned int queue, uint16_t desc_num);
struct client_inflight_packed *client_inflight_packed(const struct client_inflight_map *map,
						      unsigned int queue, uint16_t desc_num);

/* Entries marked in flight. */
unsigned int client_inflight_count_split(const struct client_inflight_split *queue,
					 uint16_t desc_num);
unsigned int client_inflight_count_packed(const struct client_inflight_packed *queue,
					  uint16_t desc_num);

/* --------------------------------------------------------------------- virtio-blk (blk.c) */

#define CLIENT_SECTOR 512u

/* What a request keeps in the ring's memory: a header and a status byte, a command and a response. */
struct client_slot {
	uint64_t gpa;
	uint8_t *memory;
	uint64_t tag;
	bool busy;
};

struct client_blk {
	struct client_ring *ring;
	struct client_slot *slots; /* ring->size of them */
	uint64_t bounce_gpa;       /* for the calls that take host memory */
	uint32_t bounce_size;
	uint32_t segment_size; /* the bounce buffer is sent in pieces of this size */
	bool indirect;
	int timeout_ms; /* of the synchronous calls */
};

struct client_blk_request {
	uint32_t type; /* VIRTIO_BLK_T_* or anything */
	uint64_t sector;
	const struct client_segment *segments; /* data, without header and status */
	unsigned int segment_count;
	uint64_t tag;
};

struct client_blk_completion {
	uint64_t tag;
	uint8_t status; /* 0xff when the device wrote none */
	uint32_t used_len;
};

/*
 * Takes buffers from the ring's memory: bounce_size bytes (may be 0) of host-memory calls, sent
 * as segments of segment_size (0: one segment). indirect only if it was negotiated.
 */
int client_blk_create(struct client_blk *blk, struct client_ring *ring, uint32_t bounce_size,
		      uint32_t segment_size, bool indirect);
void client_blk_destroy(struct client_blk *blk);

/* Adds a request without publishing; with client_ring_publish() and _kick() for batches. */
int client_blk_prepare(struct client_blk *blk, const struct client_blk_request *request);

/* Adds, publishes and kicks. */
int client_blk_submit(struct client_blk *blk, const struct client_blk_request *request);

/* 1 and *completion filled, or 0 when there is none. */
int client_blk_reap(struct client_blk *blk, struct client_blk_completion *completion);

/* Waits for one completion. */
int client_blk_wait(struct client_blk *blk, struct client_blk_completion *completion,
		    int timeout_ms);

/* Submits and waits. *completion may be NULL. -EBUSY while other requests are outstanding. */
int client_blk_execute(struct client_blk *blk, const struct client_blk_request *request,
		       struct client_blk_completion *completion);

/*
 * Synchronous: return the status byte, or a negative errno. size is a multiple of 512, up to the
 * bounce buffer. A read checks that the device wrote size + 1 bytes (-EPROTO otherwise).
 */
int client_blk_read(struct client_blk *blk, uint64_t sector, void *data, uint32_t size);
int client_blk_write(struct client_blk *blk, uint64_t sector, const void *data, uint32_t size);
int client_blk_flush(struct client_blk *blk);
int client_blk_get_id(struct client_blk *blk, char id[VIRTIO_BLK_ID_BYTES + 1]);
int client_blk_discard(struct client_blk *blk, uint64_t sector, uint32_t sectors);
int client_blk_write_zeroes(struct client_blk *blk, uint64_t sector, uint32_t sectors,
			    uint32_t flags);

/* ------------------------------------------------------------------- virtio-scsi (scsi.c) */

/* Queues of a device; CLIENT_SCSI_REQUESTS is the first of its request queues. */
#define CLIENT_SCSI_CONTROL  0u
#define CLIENT_SCSI_EVENTS   1u
#define CLIENT_SCSI_REQUESTS 2u

#define CLIENT_SCSI_RESPONSE_AT 512 /* in a slot */

struct client_scsi {
	struct client_ring *ring;
	struct client_slot *slots; /* ring->size of them */
	uint64_t bounce_gpa;       /* for the calls that take host memory */
	uint32_t bounce_size;
	uint32_t cdb_size, sense_size; /* as the driver has set them; at most 256 */
	bool indirect;
	int timeout_ms; /* of the synchronous calls */
};

struct client_scsi_request {
	uint8_t lun[8]; /* client_scsi_lun(), or anything */
	const uint8_t *cdb;
	uint32_t cdb_length; /* the rest is zeroes */
	uint8_t attribute;
	const struct client_segment *segments; /* data; those of the device's come last */
	unsigned int segment_count;
	uint64_t tag; /* of this call's and of SCSI's */
};

struct client_scsi_completion {
	uint64_t tag;
	uint32_t used_len;
	struct virtio_scsi_cmd_resp response; /* 0xff where the device wrote nothing */
};

/* target and LUN in a LUN field: below 256 in peripheral device addressing, else flat. */
void client_scsi_lun(uint8_t field[8], uint8_t target, uint16_t lun);

/* As client_blk_create(). */
int client_scsi_create(struct client_scsi *scsi, struct client_ring *ring, uint32_t bounce_size,
		       bool indirect);
void client_scsi_destroy(struct client_scsi *scsi);

/* As those of client_blk. */
int client_scsi_prepare(struct client_scsi *scsi, const struct client_scsi_request *request);
int client_scsi_submit(struct client_scsi *scsi, const struct client_scsi_request *request);
int client_scsi_reap(struct client_scsi *scsi, struct client_scsi_completion *completion);
int client_scsi_wait(struct client_scsi *scsi, struct client_scsi_completion *completion,
		     int timeout_ms);
int client_scsi_execute(struct client_scsi *scsi, const struct client_scsi_request *request,
			struct client_scsi_completion *completion);

/*
 * A command with data in host memory, out or in (or none: size 0), through the bounce buffer.
 * Returns 0 when there is a response, which *completion has; data in is copied out as far as it was
 * transferred.
 */
struct client_scsi_command {
	uint8_t target;
	uint16_t lun;
	const uint8_t *cdb;
	uint32_t cdb_length;
	const void *out;
	void *in;
	uint32_t size;
};
int client_scsi_command(struct client_scsi *scsi, const struct client_scsi_command *command,
			struct client_scsi_completion *completion);
/*
 * READ(10) and WRITE(10). 0, -EPROTO (a response that contradicts itself), or 0x100 × the
 * response's code + the status.
 */
int client_scsi_read(struct client_scsi *scsi, uint8_t target, uint16_t lun, uint32_t lba,
		     uint16_t blocks, void *data, uint32_t size);
int client_scsi_write(struct client_scsi *scsi, uint8_t target, uint16_t lun, uint32_t lba,
		      uint16_t blocks, const void *data, uint32_t size);

/* The control queue: one request at a time. */
struct client_scsi_control {
	struct client_ring *ring;
	uint64_t gpa;
	uint8_t *request;
	volatile uint8_t *response;
	int timeout_ms;
};
int client_scsi_control_create(struct client_scsi_control *control, struct client_ring *ring);
/* Any request, and a response of response_size bytes. client_scsi_control_wait() ends it. */
int client_scsi_control_submit(struct client_scsi_control *control, const void *request,
			       uint32_t size, uint32_t response_size);
/* 0, with the response in control->response and its used length. */
int client_scsi_control_wait(struct client_scsi_control *control, uint32_t *used_len);
/* A task management function: the response's code, or a negative errno. */
int client_scsi_tmf(struct client_scsi_control *control, uint32_t function, const uint8_t lun[8],
		    uint64_t tag);

/* The event queue. */
struct client_scsi_events {
	struct client_ring *ring;
	uint64_t gpa; /* ring->size buffers */
	uint16_t next;
};
int client_scsi_events_create(struct client_scsi_events *events, struct client_ring *ring);
/* Gives the device count more buffers. */
int client_scsi_events_offer(struct client_scsi_events *events, uint16_t count);
/* Waits for one; -EPROTO if the used length is not an event's. Its buffer is not offered again. */
int client_scsi_events_wait(struct client_scsi_events *events, struct virtio_scsi_event *event,
			    int timeout_ms);

#endif
