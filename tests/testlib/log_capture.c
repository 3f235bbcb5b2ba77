/* SPDX-License-Identifier: BSD-3-Clause */
#include "log_capture.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#include "log.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int count;
static char last[1024];

void
log_capture_reset(void)
{
	pthread_mutex_lock(&lock);
	count = 0;
	last[0] = '\0';
	pthread_mutex_unlock(&lock);
}

unsigned int
log_capture_count(void)
{
	unsigned int result;

	pthread_mutex_lock(&lock);
	result = count;
	pthread_mutex_unlock(&lock);
	return result;
}

const char *
log_capture_last(void)
{
	return last;
}

void __wrap_log_write(enum log_level level, struct log_site *site, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

void
__wrap_log_write(enum log_level level, struct log_site *site, const char *format, ...)
{
	va_list args;

	(void)level;
	(void)site;
	pthread_mutex_lock(&lock);
	count++;
	va_start(args, format);
	vsnprintf(last, sizeof(last), format, args);
	va_end(args);
	pthread_mutex_unlock(&lock);
}
