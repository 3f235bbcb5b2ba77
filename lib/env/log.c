/* SPDX-License-Identifier: BSD-3-Clause */
#include "log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "utf8.h"

#define TEXT_MAX       1024 /* of one line, before escaping */
#define NOTE_MAX       64   /* of it, for what we add */
#define ESCAPED_MAX    (TEXT_MAX * 4)
#define LINE_MAX_BYTES (ESCAPED_MAX + 512)
#define LOST_MAX       64 /* of it, for the lines that were lost */
#define LOST_NOTE      " (%u lines before it were lost)"
#define SITE_LINES     100 /* that one place may write in a second */

static const struct {
	const char *name;
	int priority;
} levels[] = {
	[LOG_LEVEL_ERROR] = {"ERROR", LOG_ERR},      [LOG_LEVEL_WARNING] = {"WARNING", LOG_WARNING},
	[LOG_LEVEL_NOTICE] = {"NOTICE", LOG_NOTICE}, [LOG_LEVEL_INFO] = {"INFO", LOG_INFO},
	[LOG_LEVEL_DEBUG] = {"DEBUG", LOG_DEBUG},
};

struct second_sink;

static _Atomic int syslog_level = LOG_LEVEL_NOTICE;
static _Atomic int print_level = LOG_LEVEL_NOTICE;
/* NULL: closed. */
static _Atomic(const struct second_sink *) second_sink;
static const char *sink_ident; /* set once, before second_sink */
static int sink_fd;            /* the same */
static _Atomic unsigned int second_lost;
/*
 * Whether there is room is asked before it is used. Not held over anything that waits, but for the
 * disk where stderr is a regular file.
 */
static pthread_mutex_t stderr_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int lines_lost; /* under stderr_lock */
static struct log_flag *flags;  /* set by constructors, before main() */

/*
 * A peer that can make us write a line can make us write a million. Any thread writes lines and
 * there is no thread that one could send them to before there is an app, hence a mutex; it is held
 * for a few loads and stores.
 */
static pthread_mutex_t sites_lock = PTHREAD_MUTEX_INITIALIZER;

const char *
log_level_name(enum log_level level)
{
	return level == LOG_LEVEL_DISABLED ? "DISABLED" : levels[level].name;
}

int
log_level_parse(const char *name, enum log_level *level)
{
	for (int i = LOG_LEVEL_DISABLED; i <= LOG_LEVEL_DEBUG; i++) {
		if (strcasecmp(name, log_level_name((enum log_level)i)) == 0) {
			*level = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

void
log_set_level(enum log_level level)
{
	atomic_store_explicit(&syslog_level, (int)level, memory_order_relaxed);
}

enum log_level
log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&syslog_level, memory_order_relaxed);
}

void
log_set_print_level(enum log_level level)
{
	atomic_store_explicit(&print_level, (int)level, memory_order_relaxed);
}

enum log_level
log_get_print_level(void)
{
	return (enum log_level)atomic_load_explicit(&print_level, memory_order_relaxed);
}

/* ---- flags ---- */

void
log_flag_register(struct log_flag *flag)
{
	struct log_flag **link = &flags;

	while (*link != NULL && strcmp((*link)->name, flag->name) < 0)
		link = &(*link)->next;
	flag->next = *link;
	*link = flag;
}

int
log_flag_set(const char *name, bool enabled)
{
	bool all = strcmp(name, "all") == 0;
	int rc = all ? 0 : -ENODEV;

	for (struct log_flag *flag = flags; flag != NULL; flag = flag->next) {
		if (!all && strcmp(flag->name, name) != 0)
			continue;
		__atomic_store_n(&flag->enabled, enabled, __ATOMIC_RELAXED);
		rc = 0;
	}
	return rc;
}

const struct log_flag *
log_flag_next(const struct log_flag *flag)
{
	return flag == NULL ? flags : flag->next;
}

/* ---- stderr ---- */

/*
 * systemd.exec(5): JOURNAL_STREAM is "device:inode" of the stream that the service manager
 * connected.
 */
static bool
is_journal_stream(const struct stat *st)
{
	const char *stream = getenv("JOURNAL_STREAM");
	uintmax_t device, inode;

	return stream != NULL && sscanf(stream, "%ju:%ju", &device, &inode) == 2 &&
	       device == st->st_dev && inode == st->st_ino;
}

/*
 * Text may quote what a guest or client sent: control characters and what is not UTF-8 become \xNN.
 */
static void
escape(const char *in, char out[ESCAPED_MAX])
{
	while (*in != '\0') {
		size_t length = utf8_length(in);
		unsigned char c = (unsigned char)*in;
		bool c1 = c == 0xc2 && (unsigned char)in[1] < 0xa0; /* U+0080 … U+009F */

		if (length == 0 || c < 0x20 || c == 0x7f || c1) {
			out += sprintf(out, "\\x%02x", c);
			in++;
			continue;
		}
		memcpy(out, in, length);
		out += length;
		in += length;
	}
	*out = '\0';
}

static size_t
print_time(char *out, size_t size)
{
	struct timespec now;
	struct tm tm;
	size_t length;

	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	length = strftime(out, size, "%Y-%m-%d %H:%M:%S", &tm);
	return length +
	       (size_t)snprintf(out + length, size - length, ".%03ld ", now.tv_nsec / 1000000);
}

/* False: it would have to wait for a reader. The caller has stderr_lock. */
static bool
put_line(const struct stat *st, const char *line, size_t length)
{
	struct pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT};

	if (S_ISSOCK(st->st_mode))
		return send(STDERR_FILENO, line, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
	/* A pipe that is ready takes PIPE_BUF bytes at once. */
	if (!S_ISREG(st->st_mode) && poll(&room, 1, 0) <= 0)
		return false;
	return write(STDERR_FILENO, line, length) >= 0;
}

/*
 * One line at once, so that those of several threads do not mix. Whoever logs may have guests to
 * serve: a line that nobody reads is lost, and the next one that is not says so.
 */
static void
put_or_lose(const struct stat *st, char line[LINE_MAX_BYTES], size_t length)
{
	size_t max = S_ISFIFO(st->st_mode) ? PIPE_BUF : LINE_MAX_BYTES;

	pthread_mutex_lock(&stderr_lock);
	if (length > max - LOST_MAX)
		length = max - LOST_MAX;
	if (lines_lost > 0)
		length += (size_t)snprintf(line + length, LOST_MAX, LOST_NOTE, lines_lost);
	line[length++] = '\n';
	if (put_line(st, line, length))
		lines_lost = 0;
	else
		lines_lost++;
	pthread_mutex_unlock(&stderr_lock);
}

static void
write_stderr(enum log_level level, const char *file, int line, const char *text)
{
	char out[LINE_MAX_BYTES];
	size_t length = 0;
	struct stat st;

	if (fstat(STDERR_FILENO, &st) < 0)
		return;
	if (is_journal_stream(&st)) {
		length += (size_t)sprintf(out, "<%d>", levels[level].priority);
	} else {
		if (S_ISREG(st.st_mode) || S_ISCHR(st.st_mode))
			length += print_time(out, sizeof(out));
		length += (size_t)snprintf(out + length, 128,
					   "%.64s: %s: ", program_invocation_short_name,
					   levels[level].name);
	}
	length += (size_t)snprintf(out + length, sizeof(out) - length - 1, "%s", text);
	if (level == LOG_LEVEL_DEBUG && length < sizeof(out) - 64)
		length += (size_t)snprintf(out + length, 62, " (%.48s:%d)", file, line);
	put_or_lose(&st, out, length);
}

/* ---- the second sink ---- */

/* Text has no line feeds: see escape(). */
struct second_line {
	enum log_level level;
	const char *file;
	int line;
	const char *text;
	const char *note; /* of lines that were lost */
};

/* systemd's documentation, "Native Journal Protocol". */
static size_t
print_journal(const struct second_line *line, char out[LINE_MAX_BYTES])
{
	return (size_t)snprintf(out, LINE_MAX_BYTES,
				"PRIORITY=%d\nSYSLOG_IDENTIFIER=%.64s\nCODE_FILE=%.64s\n"
				"CODE_LINE=%d\nMESSAGE=%s%s\n",
				levels[line->level].priority, sink_ident, line->file, line->line,
				line->text, line->note);
}

/* RFC 3164, as syslog() has it. */
static size_t
print_syslog(const struct second_line *line, char out[LINE_MAX_BYTES])
{
	time_t now = time(NULL);
	char when[32];
	struct tm tm;

	localtime_r(&now, &tm);
	strftime(when, sizeof(when), "%b %e %T", &tm);
	return (size_t)snprintf(out, LINE_MAX_BYTES, "<%d>%s %.64s[%d]: %s%s",
				LOG_DAEMON | levels[line->level].priority, when, sink_ident,
				(int)getpid(), line->text, line->note);
}

/*
 * One datagram for each line. sd_journal_send() and syslog() wait while the service is busy or
 * hangs, and whoever logs may have guests to serve.
 */
static const struct second_sink {
	struct sockaddr_un address;
	size_t (*print)(const struct second_line *line, char out[LINE_MAX_BYTES]);
} journal = {{AF_UNIX, "/run/systemd/journal/socket"}, print_journal},
  syslog_daemon = {{AF_UNIX, "/dev/log"}, print_syslog};

void
log_open_syslog(const char *ident)
{
	const struct second_sink *sink;
	struct stat st;

	if (fstat(STDERR_FILENO, &st) == 0 && is_journal_stream(&st))
		return;
	sink_ident = ident;
	sink_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sink_fd < 0) {
		log_warn("log: no second one: %s", strerror(errno));
		return;
	}
	sink = access(journal.address.sun_path, F_OK) == 0 ? &journal : &syslog_daemon;
	atomic_store_explicit(&second_sink, sink, memory_order_release);
}

/* A line that cannot be sent at once is lost, and the next one that is not says so. */
static void
write_second(enum log_level level, const char *file, int line_number, const char *text)
{
	const struct second_sink *sink = atomic_load_explicit(&second_sink, memory_order_acquire);
	struct second_line line = {level, file, line_number, text, ""};
	char out[LINE_MAX_BYTES], note[LOST_MAX];
	unsigned int lost;
	size_t length;

	if (sink == NULL)
		return;
	lost = atomic_exchange_explicit(&second_lost, 0, memory_order_relaxed);
	if (lost > 0) {
		snprintf(note, sizeof(note), LOST_NOTE, lost);
		line.note = note;
	}
	length = sink->print(&line, out);
	if (sendto(sink_fd, out, length, MSG_DONTWAIT | MSG_NOSIGNAL,
		   (const struct sockaddr *)&sink->address, sizeof(sink->address)) < 0)
		atomic_fetch_add_explicit(&second_lost, lost + 1, memory_order_relaxed);
}

/* ---- lines ---- */

/*
 * Counts a line of this place in the code. Returns whether it may be written; sets *missed to the
 * number of lines that were held back in an earlier second and not spoken of yet.
 */
static bool
admit(struct log_site *site, unsigned int *missed)
{
	struct timespec now;
	bool admitted;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	*missed = 0;
	pthread_mutex_lock(&sites_lock);
	if (site->second != now.tv_sec) {
		if (site->lines > SITE_LINES)
			*missed = site->lines - SITE_LINES;
		site->lines = 0;
		site->second = now.tv_sec;
	}
	admitted = ++site->lines <= SITE_LINES;
	pthread_mutex_unlock(&sites_lock);
	return admitted;
}

static void
write_line(enum log_level level, bool to_stderr, bool to_second, struct log_site *site,
	   const char *format, va_list args)
{
	char text[TEXT_MAX], escaped[ESCAPED_MAX];
	const char *base = strrchr(site->file, '/');
	unsigned int missed = 0;
	int saved_errno = errno;

	base = base == NULL ? site->file : base + 1;
	if (level != LOG_LEVEL_DEBUG && !admit(site, &missed))
		goto out;
	vsnprintf(text, TEXT_MAX - NOTE_MAX, format, args);
	if (missed > 0)
		snprintf(text + strlen(text), NOTE_MAX, " (%u lines like this one were left out)",
			 missed);
	escape(text, escaped);
	if (to_stderr)
		write_stderr(level, base, site->line, escaped);
	if (to_second)
		write_second(level, base, site->line, escaped);
out:
	errno = saved_errno;
}

void
log_write(enum log_level level, struct log_site *site, const char *format, ...)
{
	bool to_stderr = level <= log_get_print_level();
	bool to_second = level <= log_get_level() &&
			 atomic_load_explicit(&second_sink, memory_order_relaxed) != NULL;
	va_list args;

	if (!to_stderr && !to_second)
		return;
	va_start(args, format);
	write_line(level, to_stderr, to_second, site, format, args);
	va_end(args);
}

void
log_write_debug(const struct log_flag *flag, const char *file, int line, const char *format, ...)
{
	bool enabled = __atomic_load_n(&flag->enabled, __ATOMIC_RELAXED);
	enum log_level threshold = enabled ? LOG_LEVEL_ERROR : LOG_LEVEL_DEBUG;
	struct log_site site = {.file = file, .line = line};
	bool to_stderr = log_get_print_level() >= threshold;
	bool to_second = log_get_level() >= threshold &&
			 atomic_load_explicit(&second_sink, memory_order_relaxed) != NULL;
	va_list args;

	if (!to_stderr && !to_second)
		return;
	va_start(args, format);
	write_line(LOG_LEVEL_DEBUG, to_stderr, to_second, &site, format, args);
	va_end(args);
}
