/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * mpsc_queue: an unbounded first-in-first-out queue with intrusive links, many producers (any OS
 * thread, wait-free) and one consumer. Part of the room thread. After D. Vyukov, "Intrusive MPSC
 * node-based queue". Sending cannot fail, because the link is part of what is sent.
 */
#ifndef VHOSTD_MPSC_QUEUE_H
#define VHOSTD_MPSC_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct mpsc_node {
	_Atomic(struct mpsc_node *) next;
};

struct mpsc_queue {
	/* producers */
	_Alignas(64) _Atomic(struct mpsc_node *) tail;
	/* consumer only */
	_Alignas(64) struct mpsc_node *head;
	struct mpsc_node dummy;
};

static inline void
mpsc_queue_init(struct mpsc_queue *queue)
{
	atomic_init(&queue->dummy.next, NULL);
	atomic_init(&queue->tail, &queue->dummy);
	queue->head = &queue->dummy;
}

/*
 * Any OS thread. The exchange is sequentially consistent: a load of the same kind that the caller
 * makes next (is the consumer asleep?) is not made before it.
 */
static inline void
mpsc_queue_push(struct mpsc_queue *queue, struct mpsc_node *node)
{
	struct mpsc_node *prev;

	atomic_store_explicit(&node->next, NULL, memory_order_relaxed);
	prev = atomic_exchange_explicit(&queue->tail, node, memory_order_seq_cst);
	atomic_store_explicit(&prev->next, node, memory_order_release);
}

/*
 * Consumer only. True only when nothing was pushed and not popped, pushes that are under way
 * included: a consumer may go to sleep on it (with the fence its sleeping protocol needs).
 */
static inline bool
mpsc_queue_is_empty(const struct mpsc_queue *queue)
{
	return queue->head == &queue->dummy &&
	       atomic_load_explicit(&queue->tail, memory_order_seq_cst) == &queue->dummy;
}

/*
 * Consumer only. NULL when the queue is empty or the oldest push is still between its two stores
 * (mpsc_queue_is_empty() tells these apart; the next call will find it).
 */
static inline struct mpsc_node *
mpsc_queue_pop(struct mpsc_queue *queue)
{
	struct mpsc_node *head = queue->head;
	struct mpsc_node *next = atomic_load_explicit(&head->next, memory_order_acquire);

	if (head == &queue->dummy) {
		if (next == NULL)
			return NULL;
		queue->head = next;
		head = next;
		next = atomic_load_explicit(&head->next, memory_order_acquire);
	}
	if (next != NULL) {
		queue->head = next;
		return head;
	}
	if (head != atomic_load_explicit(&queue->tail, memory_order_acquire))
		return NULL;
	mpsc_queue_push(queue, &queue->dummy);
	next = atomic_load_explicit(&head->next, memory_order_acquire);
	if (next == NULL)
		return NULL;
	queue->head = next;
	return head;
}

#endif
