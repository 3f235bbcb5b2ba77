/* SPDX-License-Identifier: BSD-3-Clause */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "msg_cache.h"

union cell {
	union cell *next;
	char bytes[MSG_CACHE_CELL_SIZE];
};

struct stock {
	union cell *first;
	unsigned int count;
	bool has_destructor;
};

static __thread struct stock stock;
static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static bool key_exists;

static void
stock_free(void *arg)
{
	struct stock *old = arg;

	while (old->first != NULL) {
		union cell *cell = old->first;

		old->first = cell->next;
		free(cell);
	}
	old->count = 0;
	/*
	 * Another destructor of this OS thread may still put a cell: then it asks for another
	 * round.
	 */
	old->has_destructor = false;
}

static void
create_key(void)
{
	key_exists = pthread_key_create(&key, stock_free) == 0;
}

/* Whether the calling OS thread's stock will be freed at its end: without that nothing is kept. */
static bool
ensure_destructor(struct stock *mine)
{
	pthread_once(&key_once, create_key);
	mine->has_destructor = key_exists && pthread_setspecific(key, mine) == 0;
	return mine->has_destructor;
}

void *
msg_cache_get(void)
{
	struct stock *mine = &stock;
	union cell *cell = mine->first;

	if (cell == NULL)
		return malloc(sizeof(*cell));
	mine->first = cell->next;
	mine->count--;
	return cell;
}

void
msg_cache_put(void *ptr)
{
	struct stock *mine = &stock;
	union cell *cell = ptr;

	if (mine->count == MSG_CACHE_MAX_CELLS ||
	    (!mine->has_destructor && !ensure_destructor(mine))) {
		free(cell);
		return;
	}
	cell->next = mine->first;
	mine->first = cell;
	mine->count++;
}

void
msg_cache_drain(void)
{
	bool has_destructor = stock.has_destructor;

	stock_free(&stock);
	stock.has_destructor = has_destructor;
}

unsigned int
msg_cache_count(void)
{
	return stock.count;
}
