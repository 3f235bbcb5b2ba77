/* SPDX-License-Identifier: BSD-3-Clause */
#include "env.h"

void
env_fill_sigset(sigset_t *set)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};

	sigfillset(set);
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigdelset(set, faults[i]);
}

int
env_start_os_thread(pthread_t *os_thread, void *(*fn)(void *arg), void *arg)
{
	sigset_t set, before;
	int rc;

	env_fill_sigset(&set);
	pthread_sigmask(SIG_SETMASK, &set, &before);
	rc = pthread_create(os_thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -rc;
}
