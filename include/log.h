/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log: one line says what happened to which object. Part of the room env; any OS thread, also
 * before env_init(). Lines go to stderr and, when asked for, to the journal or syslog; each sink
 * has its own threshold.
 */
#ifndef VHOSTD_LOG_H
#define VHOSTD_LOG_H

#include <stdbool.h>
#include <time.h>

/* The names clients use over RPC: ERROR WARNING NOTICE INFO DEBUG, and DISABLED for no output. */
enum log_level {
	LOG_LEVEL_DISABLED = -1,
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_NOTICE,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

const char *log_level_name(enum log_level level);
/* Case-insensitive; returns 0, or -EINVAL and leaves *level alone. */
int log_level_parse(const char *name, enum log_level *level);

/* Threshold of the journal/syslog sink; stays closed until log_open_syslog(). Default NOTICE. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* Threshold of stderr. Default NOTICE. */
void log_set_print_level(enum log_level level);
enum log_level log_get_print_level(void);

/*
 * Opens the journal (where stderr is not already the journal) or syslog as a second sink; once, and
 * ident outlives all logging. No sink makes a thread wait: lines that it cannot take at once are
 * lost, and counted in the next one that it takes.
 */
void log_open_syslog(const char *ident);

/*
 * Flags switch the debug lines of one room on without raising the level for all. A flag is a
 * variable at file scope, made by LOG_FLAG(name), and known to RPC by that name. "all" is every
 * flag.
 */
struct log_flag {
	const char *name;
	bool enabled; /* read and written with relaxed atomics */
	struct log_flag *next;
};
void log_flag_register(struct log_flag *flag);
/* Returns 0, or -ENODEV when no flag has that name. */
int log_flag_set(const char *name, bool enabled);
/* The first flag, or the one after flag; NULL at the end. Names ascend. */
const struct log_flag *log_flag_next(const struct log_flag *flag);

#define LOG_FLAG(ident)                                                                            \
	static struct log_flag log_flag_##ident = {.name = #ident};                                \
	__attribute__((constructor)) static void log_flag_register_##ident(void)                   \
	{                                                                                          \
		log_flag_register(&log_flag_##ident);                                              \
	}

/*
 * A place in the code that writes lines. It may write so many in a second; then it is silent, and
 * says so later.
 */
struct log_site {
	const char *file;
	int line;
	/* log.c's */
	unsigned int lines;
	time_t second;
};

void log_write(enum log_level level, struct log_site *site, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#define LOG_WRITE(level, ...)                                                                      \
	do {                                                                                       \
		static struct log_site log_site_here = {.file = __FILE__, .line = __LINE__};       \
		log_write(level, &log_site_here, __VA_ARGS__);                                     \
	} while (0)

#define log_err(...)    LOG_WRITE(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)   LOG_WRITE(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) LOG_WRITE(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...)   LOG_WRITE(LOG_LEVEL_INFO, __VA_ARGS__)
/* A debug line is written when its flag is set, or when a sink's threshold is DEBUG. */
#define log_debug(flag, ...) log_write_debug(&log_flag_##flag, __FILE__, __LINE__, __VA_ARGS__)
void log_write_debug(const struct log_flag *flag, const char *file, int line, const char *format,
		     ...) __attribute__((format(printf, 4, 5)));

#endif
