/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * msg_cache: memory for stray messages and events. Each OS thread keeps a bounded stock of the
 * cells that it freed, so that two threads that talk to each other do not meet in malloc(). The
 * stock is freed when its OS thread ends. Any OS thread; for the rooms thread and event.
 */
#ifndef VHOSTD_LIB_THREAD_MSG_CACHE_H
#define VHOSTD_LIB_THREAD_MSG_CACHE_H

#define MSG_CACHE_CELL_SIZE 64  /* bytes, aligned like malloc()'s */
#define MSG_CACHE_MAX_CELLS 512 /* kept by one OS thread */

/* A cell with undefined content, or NULL when there is no memory. */
void *msg_cache_get(void);
/* Gives a cell back, on whichever OS thread it was used last. */
void msg_cache_put(void *cell);
/* Frees what the calling OS thread keeps. */
void msg_cache_drain(void);
/* How many cells the calling OS thread keeps. */
unsigned int msg_cache_count(void);

#endif
