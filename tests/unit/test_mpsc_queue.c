/* SPDX-License-Identifier: BSD-3-Clause */
/* links: testlib */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "mpsc_queue.h"
#include "waiting.h"

struct item {
	struct mpsc_node node;
	unsigned int producer;
	unsigned int number;
};

static void
test_fifo(void **state)
{
	struct mpsc_queue queue;
	struct item items[4];

	(void)state;
	mpsc_queue_init(&queue);
	assert_true(mpsc_queue_is_empty(&queue));
	assert_null(mpsc_queue_pop(&queue));
	for (unsigned int round = 0; round < 3; round++) {
		for (unsigned int i = 0; i <= round; i++)
			mpsc_queue_push(&queue, &items[i].node);
		for (unsigned int i = 0; i <= round; i++) {
			assert_false(mpsc_queue_is_empty(&queue));
			assert_ptr_equal(mpsc_queue_pop(&queue), &items[i].node);
		}
		assert_true(mpsc_queue_is_empty(&queue));
		assert_null(mpsc_queue_pop(&queue));
	}
}

/* Push is an exchange of the tail and then a link. Stop between the two, by doing them by hand. */
static void
test_push_under_way(void **state)
{
	struct mpsc_queue queue;
	struct item first, second;
	struct mpsc_node *prev;

	(void)state;
	mpsc_queue_init(&queue);
	atomic_store(&first.node.next, NULL);
	prev = atomic_exchange(&queue.tail, &first.node);
	assert_false(mpsc_queue_is_empty(&queue));
	assert_null(mpsc_queue_pop(&queue));
	mpsc_queue_push(&queue, &second.node);
	assert_null(mpsc_queue_pop(&queue));
	atomic_store(&prev->next, &first.node);
	assert_ptr_equal(mpsc_queue_pop(&queue), &first.node);
	assert_ptr_equal(mpsc_queue_pop(&queue), &second.node);
	assert_true(mpsc_queue_is_empty(&queue));
}

/*
 * The same behind a node: the consumer has put the dummy behind a last node that was not the last
 * any more.
 */
static void
test_push_under_way_behind_a_node(void **state)
{
	struct mpsc_queue queue;
	struct item first, second;
	struct mpsc_node *prev;

	(void)state;
	mpsc_queue_init(&queue);
	mpsc_queue_push(&queue, &first.node);
	atomic_store(&second.node.next, NULL);
	prev = atomic_exchange(&queue.tail, &second.node);
	assert_ptr_equal(prev, &first.node);
	assert_null(mpsc_queue_pop(&queue));
	assert_false(mpsc_queue_is_empty(&queue));
	atomic_store(&prev->next, &second.node);
	assert_ptr_equal(mpsc_queue_pop(&queue), &first.node);
	assert_ptr_equal(mpsc_queue_pop(&queue), &second.node);
	assert_null(mpsc_queue_pop(&queue));
	assert_true(mpsc_queue_is_empty(&queue));
}

/*
 * The same once more, but the producer comes between the consumer's look at the tail and its push
 * of the dummy. That push is done by hand, too.
 */
static void
test_push_under_way_before_the_dummy(void **state)
{
	struct mpsc_queue queue;
	struct item first, second;
	struct mpsc_node *prev;

	(void)state;
	mpsc_queue_init(&queue);
	mpsc_queue_push(&queue, &first.node);
	queue.head = &first.node; /* as pop() has it by then */
	atomic_store(&second.node.next, NULL);
	prev = atomic_exchange(&queue.tail, &second.node);
	mpsc_queue_push(&queue, &queue.dummy);
	assert_null(mpsc_queue_pop(&queue));
	assert_false(mpsc_queue_is_empty(&queue));
	atomic_store(&prev->next, &second.node);
	assert_ptr_equal(mpsc_queue_pop(&queue), &first.node);
	assert_ptr_equal(mpsc_queue_pop(&queue), &second.node);
	assert_null(mpsc_queue_pop(&queue));
	assert_true(mpsc_queue_is_empty(&queue));
}

#define PRODUCERS 4
#define ITEMS     20000

struct producer {
	struct mpsc_queue *queue;
	unsigned int index;
	struct item items[ITEMS];
};

static void *
produce(void *arg)
{
	struct producer *producer = arg;

	for (unsigned int i = 0; i < ITEMS; i++) {
		producer->items[i].producer = producer->index;
		producer->items[i].number = i;
		mpsc_queue_push(producer->queue, &producer->items[i].node);
	}
	return NULL;
}

static void
test_many_producers(void **state)
{
	static struct mpsc_queue queue;
	static struct producer producers[PRODUCERS];
	unsigned int next[PRODUCERS] = {0};
	pthread_t threads[PRODUCERS];

	(void)state;
	mpsc_queue_init(&queue);
	for (unsigned int i = 0; i < PRODUCERS; i++) {
		producers[i].queue = &queue;
		producers[i].index = i;
		assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
	}
	for (unsigned int count = 0; count < PRODUCERS * ITEMS;) {
		struct item *item = (struct item *)mpsc_queue_pop(&queue);

		if (item == NULL) {
			sched_yield();
			continue;
		}
		assert_int_equal(item->number, next[item->producer]++);
		count++;
	}
	for (unsigned int i = 0; i < PRODUCERS; i++)
		pthread_join(threads[i], NULL);
	assert_true(mpsc_queue_is_empty(&queue));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fifo),
		cmocka_unit_test(test_push_under_way),
		cmocka_unit_test(test_push_under_way_behind_a_node),
		cmocka_unit_test(test_push_under_way_before_the_dummy),
		cmocka_unit_test(test_many_producers),
	};

	alarm(3 *
	      DEADLINE_S); /* seconds: the end of every wait in here that does not end otherwise */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
