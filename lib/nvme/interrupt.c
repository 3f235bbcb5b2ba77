/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Interrupts of queue pairs whose threads poll anyway. An interrupt costs a CPU a microsecond or
 * more for each batch of completions, and is for a thread that sleeps while its requests are under
 * way. So where a queue pair has a vector of its own, that is off while the thread is busy all the
 * time, and on again before it sleeps.
 *
 *     its thread                                   a worker of the pool
 *     ON: TIMEOUT_LOOK_US with requests, and next
 *       to no sleep while some were under way
 *     ─────── SWITCHING ─────────────────────────▶ the transport's switch_interrupt(): OFF
 *     OFF: it would sleep with requests under
 *       way, often or for some ms, and goes on
 *       polling until it is
 *     ─────── SWITCHING ─────────────────────────▶ switch_interrupt(): ON
 *     ON: looks for completions, and sleeps
 */
#include "ctrlr.h"
#include "log.h"
#include "qpair.h"
#include "transport.h"
#include "work.h"

#define SWITCHING_US       1000u /* how often who waits for a worker looks */
#define COMMANDS_PER_SLEEP 100u  /* with fewer between two sleeps an interrupt is worth it */
#define PATIENCE           8u    /* tries to sleep on the same commands, some 200 µs apart */

static int
switch_vector(void *arg)
{
	struct nvme_qpair *qpair = arg;
	struct nvme_interrupt *interrupt = &qpair->interrupt;
	int rc = qpair->ctrlr->ops->switch_interrupt(qpair->ctrlr->transport, interrupt->vector,
						     interrupt->on);
	bool is_on = rc == 0 ? interrupt->on : !interrupt->on;

	if (rc != 0)
		atomic_store(&interrupt->stays, true);
	atomic_store(&interrupt->state, is_on ? NVME_INTERRUPT_ON : NVME_INTERRUPT_OFF);
	return rc;
}

static void
run_switch(struct work *work)
{
	switch_vector((uint8_t *)work - offsetof(struct nvme_qpair, interrupt.work));
}

/* Its thread, or nobody, has it; not SWITCHING. */
static void
begin_switch(struct nvme_qpair *qpair, bool on)
{
	struct nvme_interrupt *interrupt = &qpair->interrupt;

	interrupt->on = on;
	atomic_store(&interrupt->state, NVME_INTERRUPT_SWITCHING);
	if (work_submit(&interrupt->work, run_switch) != 0)
		atomic_store(&interrupt->state, on ? NVME_INTERRUPT_OFF : NVME_INTERRUPT_ON);
}

bool
nvme_interrupt_wakes(struct nvme_qpair *qpair)
{
	struct nvme_interrupt *interrupt = &qpair->interrupt;
	const uint8_t state = atomic_load(&interrupt->state);

	if (qpair->interrupt_fd < 0)
		return false;
	interrupt->needed++;
	if (qpair->commands != interrupt->stuck_at) {
		interrupt->stuck_at = qpair->commands;
		interrupt->stuck = 0;
	}
	if (state == NVME_INTERRUPT_OFF && ++interrupt->stuck >= PATIENCE)
		begin_switch(qpair, true);
	return state == NVME_INTERRUPT_ON;
}

void
nvme_interrupt_look(struct nvme_qpair *qpair)
{
	struct nvme_interrupt *interrupt = &qpair->interrupt;
	const uint64_t commands = qpair->commands - interrupt->commands;
	const uint8_t state = atomic_load(&interrupt->state);
	const bool sleeps = interrupt->needed > 0;
	const bool busy = commands > interrupt->needed * COMMANDS_PER_SLEEP;

	interrupt->commands = qpair->commands;
	interrupt->needed = 0;
	if (!interrupt->own || qpair->interrupt_fd < 0 || atomic_load(&interrupt->stays))
		return;
	if (state == NVME_INTERRUPT_ON && busy)
		begin_switch(qpair, false);
	else if (state == NVME_INTERRUPT_OFF && sleeps && !busy)
		begin_switch(qpair, true);
}

void
nvme_interrupt_settle(struct nvme_qpair *qpair)
{
	while (atomic_load(&qpair->interrupt.state) == NVME_INTERRUPT_SWITCHING)
		coroutine_sleep(SWITCHING_US);
}

void
nvme_interrupt_restore(struct nvme_qpair *qpair)
{
	struct nvme_interrupt *interrupt = &qpair->interrupt;

	nvme_interrupt_settle(qpair);
	if (atomic_load(&interrupt->state) == NVME_INTERRUPT_ON)
		return;
	interrupt->on = true;
	if (transport_blocking(switch_vector, qpair) != 0)
		log_warn("nvme %s: queue %u: its interrupt stays off", qpair->ctrlr->name,
			 qpair->id);
}
