/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The event queue (virtio 1.2 §5.6.6.3). Its buffers stay in the ring until there is an event.
 * Events wait for them, also while no session runs the queue: one that is paused for a moment
 * misses none.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vhost_scsi.h"

#define FEATURE(name) (1ULL << VIRTIO_SCSI_F_##name)

/*
 * QEMU 7.2 does not pass VIRTIO_SCSI_F_CHANGE on: its guest may have negotiated that without
 * our knowing. Who has any of the two knows events.
 */
static bool
has_driver(struct vhost_scsi *scsi)
{
	return atomic_load(&scsi->negotiated) & (FEATURE(HOTPLUG) | FEATURE(CHANGE));
}

void
vhost_scsi_event_send(struct vhost_scsi *scsi, const struct vhost_scsi_lun *lun, uint32_t event,
		      uint32_t reason)
{
	const uint64_t one = 1;

	if (!has_driver(scsi))
		return;
	pthread_mutex_lock(&scsi->lock);
	if (scsi->event_count < VHOST_SCSI_EVENTS)
		scsi->events[scsi->event_count++] = (struct virtio_scsi_event){
			.event = event,
			/* As REPORT LUNS has it: LUNs below 256 in peripheral device addressing. */
			.lun = {1, lun->target->number, 0, (uint8_t)lun->number},
			.reason = reason,
		};
	else
		scsi->events_missed = true;
	atomic_store(&scsi->has_events, true);
	pthread_mutex_unlock(&scsi->lock);
	while (write(scsi->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		continue;
}

void
vhost_scsi_events_forget(struct vhost_scsi *scsi)
{
	pthread_mutex_lock(&scsi->lock);
	scsi->event_count = 0;
	scsi->events_missed = false;
	atomic_store(&scsi->has_events, false);
	pthread_mutex_unlock(&scsi->lock);
}

int
vhost_scsi_event_fd(void *device)
{
	return ((struct vhost_scsi *)device)->event_fd;
}

bool
vhost_scsi_wants_buffers(void *device)
{
	return atomic_load_explicit(&((struct vhost_scsi *)device)->has_events,
				    memory_order_relaxed);
}

/* The oldest one. Under the lock. */
static struct virtio_scsi_event
take_event(struct vhost_scsi *scsi)
{
	struct virtio_scsi_event event = {.event = VIRTIO_SCSI_T_NO_EVENT};

	if (scsi->event_count > 0) {
		event = scsi->events[0];
		scsi->event_count--;
		memmove(scsi->events, scsi->events + 1, scsi->event_count * sizeof(event));
	}
	/* The ones that were missed are later than all those that wait. */
	if (scsi->event_count == 0 && scsi->events_missed) {
		event.event |= VIRTIO_SCSI_T_EVENTS_MISSED;
		scsi->events_missed = false;
	}
	atomic_store(&scsi->has_events, scsi->event_count > 0);
	return event;
}

static void
fill_one(struct vhost_queue *queue, struct virtq_slot *slot, const struct virtio_scsi_event *event)
{
	struct iovec *in = slot->iov + slot->readable_count;
	struct vhost_scsi_response response;
	uint32_t count = slot->writable_count;

	if (!vhost_scsi_take_response(&in, &count, sizeof(*event), &response)) {
		vhost_queue_complete(queue, slot, 0);
		virtq_break(queue->setup.vq, "event buffer that is too short");
		return;
	}
	vhost_scsi_put_response(&response, event, sizeof(*event), false);
	vhost_queue_complete(queue, slot, sizeof(*event));
}

static __attribute__((noinline)) void
fill(struct vhost_queue *queue, struct vhost_scsi *scsi)
{
	struct virtio_scsi_event event;
	struct virtq_slot *slot;

	while (vhost_scsi_wants_buffers(scsi) && virtq_pop(queue->setup.vq, &slot, 1) == 1) {
		pthread_mutex_lock(&scsi->lock);
		event = take_event(scsi);
		pthread_mutex_unlock(&scsi->lock);
		fill_one(queue, slot, &event);
	}
}

/* In each poll, and nearly never with anything to do. */
void
vhost_scsi_fill(struct vhost_queue *queue)
{
	if (vhost_scsi_wants_buffers(queue->device))
		fill(queue, queue->device);
}
