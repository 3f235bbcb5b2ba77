/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * notifier: adds 1 to an eventfd that a front-end gave us. Private to lib/vhost.
 *
 * Both sides share the open file description: whatever we set, a hostile front-end can clear
 * O_NONBLOCK at any time and fill the counter, and a write(2) then never returns. What the kernel
 * does on its own when it signals an eventfd cannot block, so we let it: as the end of an AIO
 * request that reads nothing. The counter, irqfds and poll() see the same as with write(2).
 */
#ifndef VHOSTD_VHOST_NOTIFIER_H
#define VHOSTD_VHOST_NOTIFIER_H

/*
 * Any OS thread, each has an AIO context of its own. Never blocks where the kernel has AIO. Where
 * it has none (or no more contexts), writes, and a timer interrupts that after NOTIFIER_BOUND_US.
 * 0: done, as far as possible (the counter of a full eventfd stays as it is). -ETIMEDOUT: it held
 * us up for that long: do not call with that eventfd again. -EAGAIN: the machine has neither an AIO
 * context nor a timer for us just now; the eventfd was not touched.
 */
int vhost_notify(int eventfd);

#define NOTIFIER_BOUND_US 1000

#endif
