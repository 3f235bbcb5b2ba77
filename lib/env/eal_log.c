/* SPDX-License-Identifier: BSD-3-Clause */
#include "eal_log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <rte_log.h>

#include "log.h"

static FILE *stream;

/*
 * The line under construction. Its lock is that of the stream, which stdio holds while it calls
 * write_text().
 */
static char pending[1024];
static size_t pending_length;

static void
flush_line(void)
{
	static const enum log_level levels[] = {
		[RTE_LOG_EMERG] = LOG_LEVEL_ERROR,     [RTE_LOG_ALERT] = LOG_LEVEL_ERROR,
		[RTE_LOG_CRIT] = LOG_LEVEL_ERROR,      [RTE_LOG_ERR] = LOG_LEVEL_ERROR,
		[RTE_LOG_WARNING] = LOG_LEVEL_WARNING, [RTE_LOG_NOTICE] = LOG_LEVEL_NOTICE,
		[RTE_LOG_INFO] = LOG_LEVEL_INFO,       [RTE_LOG_DEBUG] = LOG_LEVEL_DEBUG,
	};
	int level = rte_log_cur_msg_loglevel();

	if (level < (int)RTE_LOG_EMERG || level > (int)RTE_LOG_DEBUG)
		level = RTE_LOG_NOTICE;
	if (pending_length > 0)
		LOG_WRITE(levels[level], "DPDK: %.*s", (int)pending_length, pending);
	pending_length = 0;
}

static ssize_t
write_text(void *cookie, const char *text, size_t size)
{
	(void)cookie;
	for (size_t i = 0; i < size; i++) {
		if (text[i] == '\n' || pending_length == sizeof(pending))
			flush_line();
		if (text[i] != '\n')
			pending[pending_length++] = text[i];
	}
	return (ssize_t)size;
}

int
eal_log_open(void)
{
	stream = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_text});
	if (stream == NULL)
		return -ENOMEM;
	/*
	 * Unbuffered: each message is written by the thread that logs it, whose level is the one we
	 * ask for.
	 */
	setvbuf(stream, NULL, _IONBF, 0);
	rte_openlog_stream(stream);
	return 0;
}

void
eal_log_close(void)
{
	rte_openlog_stream(NULL);
	fclose(stream);
	stream = NULL;
}
