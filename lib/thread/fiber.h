/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fiber: a switch between two stacks that the sanitizers understand. Each stack has a struct fiber;
 * for the stack of an OS thread it is made anew by each fiber_enter().
 */
#ifndef VHOSTD_LIB_THREAD_FIBER_H
#define VHOSTD_LIB_THREAD_FIBER_H

#include <stdbool.h>
#include <stddef.h>
#include <ucontext.h>

/* clang says it in another way. */
#if defined(__has_feature) && !defined(__SANITIZE_ADDRESS__)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

struct fiber {
	ucontext_t context;
#ifdef __SANITIZE_ADDRESS__
	const void *stack;
	size_t stack_size;
	void *fake_stack;
#endif
#ifdef __SANITIZE_THREAD__
	void *tsan;
#endif
};

/*
 * fiber gets the stack, fresh or used before, and starts at entry when it is switched to for the
 * first time.
 */
static inline void
fiber_init(struct fiber *fiber, void *stack, size_t stack_size, void (*entry)(void))
{
	getcontext(&fiber->context);
	fiber->context.uc_stack.ss_sp = stack;
	fiber->context.uc_stack.ss_size = stack_size;
	fiber->context.uc_link = NULL;
	makecontext(&fiber->context, entry, 0);
#ifdef __SANITIZE_ADDRESS__
	/* The last user's first frame was never left: its red zones are still there. */
	ASAN_UNPOISON_MEMORY_REGION(stack, stack_size);
	/*
	 * Used up by makecontext(). ASan's own swapcontext() would clear the red zones of that
	 * range at each switch.
	 */
	fiber->context.uc_stack.ss_size = 0;
	fiber->stack = stack;
	fiber->stack_size = stack_size;
	fiber->fake_stack = NULL;
#endif
#ifdef __SANITIZE_THREAD__
	fiber->tsan = __tsan_create_fiber(0);
#endif
}

/* After the last switch away from it. */
static inline void
fiber_fini(struct fiber *fiber)
{
	(void)fiber;
#ifdef __SANITIZE_THREAD__
	__tsan_destroy_fiber(fiber->tsan);
#endif
}

/* The first thing on a new stack; from is the one that switched. */
static inline void
fiber_begin(struct fiber *from)
{
	(void)from;
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_finish_switch_fiber(NULL, &from->stack, &from->stack_size);
#endif
}

/* last: `from` will never be switched to again. */
static inline void
fiber_switch(struct fiber *from, struct fiber *to, bool last)
{
	(void)last;
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_start_switch_fiber(last ? NULL : &from->fake_stack, to->stack, to->stack_size);
#endif
#ifdef __SANITIZE_THREAD__
	__tsan_switch_to_fiber(to->tsan, 0);
#endif
	swapcontext(&from->context, &to->context);
#ifdef __SANITIZE_ADDRESS__
	__sanitizer_finish_switch_fiber(from->fake_stack, &to->stack, &to->stack_size);
#endif
}

/*
 * From the stack of an OS thread, for which `from` is filled in, to a coroutine's. Returns when
 * that switches back.
 */
static inline void
fiber_enter(struct fiber *from, struct fiber *to)
{
#ifdef __SANITIZE_THREAD__
	from->tsan = __tsan_get_current_fiber();
#endif
	fiber_switch(from, to, false);
}

#endif
