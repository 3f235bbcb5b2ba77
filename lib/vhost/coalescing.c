/* SPDX-License-Identifier: BSD-3-Clause */
#include "coalescing.h"

#include "env.h"

void
vhost_coalescing_set(struct vhost_coalescing *coalescing, uint32_t delay_base_us,
		     uint32_t iops_threshold, uint64_t now, uint64_t requests)
{
	*coalescing = (struct vhost_coalescing){
		.base = env_us_to_ticks(delay_base_us),
		.threshold = iops_threshold,
		.next_call = now,
		.window = env_us_to_ticks(VHOST_COALESCING_WINDOW_US),
		.window_start = now,
		.window_requests = requests,
	};
}

static uint64_t
delay_at(const struct vhost_coalescing *coalescing, uint64_t rate)
{
	unsigned __int128 delay;

	if (rate <= coalescing->threshold)
		return 0;
	delay = (unsigned __int128)coalescing->base * (rate - coalescing->threshold) /
		coalescing->threshold;
	return delay < coalescing->base ? (uint64_t)delay : coalescing->base;
}

/* Time that has passed without a request counts: after a pause the first calls are not delayed. */
static void
end_window(struct vhost_coalescing *coalescing, uint64_t now, uint64_t requests)
{
	unsigned __int128 done = requests - coalescing->window_requests;

	coalescing->delay = delay_at(
		coalescing, (uint64_t)(done * env_ticks_hz() / (now - coalescing->window_start)));
	coalescing->window_start = now;
	coalescing->window_requests = requests;
}

bool
vhost_coalescing_may_call(struct vhost_coalescing *coalescing, uint64_t now, uint64_t requests)
{
	if (now - coalescing->window_start >= coalescing->window)
		end_window(coalescing, now, requests);
	if (now < coalescing->next_call)
		return false;
	coalescing->next_call = now + coalescing->delay;
	return true;
}

uint64_t
vhost_coalescing_wait_us(const struct vhost_coalescing *coalescing)
{
	uint64_t now = env_ticks();
	uint64_t ticks = coalescing->next_call > now ? coalescing->next_call - now : 0;

	/* Rounded up: a timer that comes early would find nothing to do. */
	return env_ticks_to_us(ticks) + 1;
}
