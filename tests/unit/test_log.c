/* SPDX-License-Identifier: BSD-3-Clause */
/* links: env */
/* ldflags: -Wl,--wrap=sendto,--wrap=access */
/* What reaches stderr and the second sink, and in which form. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

LOG_FLAG(zebra)
LOG_FLAG(ant)

#define CAPTURE_MAX (1 << 20)

static int real_stderr = -1;
static int capture_fd = -1; /* what we read */
static char captured[CAPTURE_MAX];

/* Until capture_end() stderr is a pipe (file: a regular file). */
static void
capture_begin(bool file)
{
	fflush(stderr);
	real_stderr = dup(STDERR_FILENO);
	if (file) {
		FILE *temporary = tmpfile();

		assert_non_null(temporary);
		capture_fd = dup(fileno(temporary));
		dup2(capture_fd, STDERR_FILENO);
		fclose(temporary);
	} else {
		int ends[2];

		assert_int_equal(pipe(ends), 0);
		assert_true(fcntl(ends[0], F_SETPIPE_SZ, CAPTURE_MAX) >= CAPTURE_MAX);
		assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
		dup2(ends[1], STDERR_FILENO);
		close(ends[1]);
		capture_fd = ends[0];
	}
}

static const char *
capture_end(void)
{
	size_t length = 0;
	ssize_t got;

	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	lseek(capture_fd, 0, SEEK_SET);
	while ((got = read(capture_fd, captured + length, sizeof(captured) - 1 - length)) > 0)
		length += (size_t)got;
	close(capture_fd);
	captured[length] = '\0';
	return captured;
}

static unsigned int
count(const char *text, const char *what)
{
	unsigned int n = 0;

	for (; (text = strstr(text, what)) != NULL; text += strlen(what))
		n++;
	return n;
}

static int
reset(void **state)
{
	(void)state;
	log_set_print_level(LOG_LEVEL_NOTICE);
	log_set_level(LOG_LEVEL_NOTICE);
	log_flag_set("all", false);
	unsetenv("JOURNAL_STREAM");
	return 0;
}

static void
test_form(void **state)
{
	(void)state;
	capture_begin(false);
	log_err("disk %s: %d", "one", 1);
	log_warn("two");
	log_notice("three");
	log_info("four");
	assert_string_equal(capture_end(), "test_log: ERROR: disk one: 1\n"
					   "test_log: WARNING: two\n"
					   "test_log: NOTICE: three\n");
}

static void
test_file_has_time(void **state)
{
	unsigned int year, month, day, hour, minute, second, ms;
	char rest[64];

	(void)state;
	capture_begin(true);
	log_notice("hello");
	assert_int_equal(sscanf(capture_end(), "%4u-%2u-%2u %2u:%2u:%2u.%3u %63[^\n]", &year,
				&month, &day, &hour, &minute, &second, &ms, rest),
			 8);
	assert_string_equal(rest, "test_log: NOTICE: hello");
}

static void
test_journal_has_priority(void **state)
{
	char stream[64];
	struct stat st;

	(void)state;
	capture_begin(false);
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	log_err("one");
	log_notice("two");
	snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino + 1);
	setenv("JOURNAL_STREAM", stream, 1);
	log_notice("three");
	assert_string_equal(capture_end(), "<3>one\n<5>two\ntest_log: NOTICE: three\n");
}

static void
test_thresholds(void **state)
{
	(void)state;
	capture_begin(false);
	for (int level = LOG_LEVEL_DISABLED; level <= LOG_LEVEL_DEBUG; level++) {
		log_set_print_level((enum log_level)level);
		assert_int_equal(log_get_print_level(), level);
		log_err("%d", level);
		log_warn("%d", level);
		log_notice("%d", level);
		log_info("%d", level);
		log_debug(ant, "%d", level);
	}
	capture_end();
	assert_int_equal(count(captured, "-1\n"), 0);
	assert_int_equal(count(captured, "ERROR"), 5);
	assert_int_equal(count(captured, "WARNING"), 4);
	assert_int_equal(count(captured, "NOTICE"), 3);
	assert_int_equal(count(captured, "INFO"), 2);
	assert_int_equal(count(captured, "DEBUG"), 1);
}

static void
test_level_names(void **state)
{
	enum log_level level;

	(void)state;
	for (int i = LOG_LEVEL_DISABLED; i <= LOG_LEVEL_DEBUG; i++) {
		assert_int_equal(log_level_parse(log_level_name((enum log_level)i), &level), 0);
		assert_int_equal(level, i);
	}
	assert_int_equal(log_level_parse("warning", &level), 0);
	assert_int_equal(level, LOG_LEVEL_WARNING);
	assert_int_equal(log_level_parse("loud", &level), -EINVAL);
	assert_int_equal(log_level_parse("", &level), -EINVAL);
	assert_int_equal(level, LOG_LEVEL_WARNING);
}

static void
test_flags(void **state)
{
	const struct log_flag *flag = log_flag_next(NULL);

	(void)state;
	assert_string_equal(flag->name, "ant");
	flag = log_flag_next(flag);
	assert_string_equal(flag->name, "zebra");
	assert_null(log_flag_next(flag));
	assert_int_equal(log_flag_set("bee", true), -ENODEV);

	capture_begin(false);
	log_debug(ant, "silent");
	assert_int_equal(log_flag_set("ant", true), 0);
	log_debug(ant, "ant only");
	log_debug(zebra, "silent");
	assert_int_equal(log_flag_set("all", true), 0);
	log_debug(zebra, "both");
	assert_int_equal(log_flag_set("ant", false), 0);
	log_debug(ant, "silent");
	log_set_print_level(LOG_LEVEL_DISABLED);
	log_debug(zebra, "silent");
	capture_end();
	assert_int_equal(count(captured, "\n"), 2);
	assert_non_null(strstr(captured, "test_log: DEBUG: ant only (test_log.c:"));
	assert_non_null(strstr(captured, "test_log: DEBUG: both (test_log.c:"));
}

static void
test_hostile_text(void **state)
{
	(void)state;
	capture_begin(false);
	log_notice("%s", "a\nvhostd: ERROR: forged\r\x1b[2J\x7f\t");
	log_notice("%s", "\xc2\x9b"
			 "2J \xff \xc3\xbc");
	assert_string_equal(capture_end(),
			    "test_log: NOTICE: a\\x0avhostd: ERROR: forged\\x0d\\x1b[2J\\x7f\\x09\n"
			    "test_log: NOTICE: \\xc2\\x9b2J \\xff \xc3\xbc\n");
}

static void
test_long_text(void **state)
{
	char *text = malloc(100000);

	(void)state;
	memset(text, '\n', 99999);
	text[99999] = '\0';
	capture_begin(false);
	log_notice("%s", text);
	log_set_print_level(LOG_LEVEL_DEBUG);
	log_debug(ant, "%s", text);
	capture_end();
	free(text);
	assert_int_equal(count(captured, "\n"), 2);
	assert_int_equal(count(captured, "test_log: NOTICE: \\x0a"), 1);
}

static void
test_errno_is_kept(void **state)
{
	(void)state;
	capture_begin(false);
	errno = ENOSPC;
	log_notice("%m");
	assert_int_equal(errno, ENOSPC);
	assert_non_null(strstr(capture_end(), "No space left"));
}

static time_t
coarse_second(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec;
}

static void
test_flood(void **state)
{
	struct timespec pause = {.tv_nsec = 20000000};
	time_t first = coarse_second(), last;
	unsigned int lines;

	(void)state;
	capture_begin(false);
	for (int i = 0; i < 1501; i++) {
		if (i == 1500) {
			last = coarse_second();
			while (coarse_second() == last)
				nanosleep(&pause, NULL);
		}
		log_warn("flood %d", i);
	}
	log_warn("another place");
	capture_end();
	lines = count(captured, "flood");
	assert_true(lines >= 101);
	assert_true(lines <= 100 * (unsigned int)(last - first + 1) + 1);
	if (lines < 1501)
		assert_non_null(strstr(captured, "lines like this one were left out)\n"));
	assert_non_null(strstr(captured, "flood 0\n"));
	assert_non_null(strstr(captured, "flood 1500"));
	assert_non_null(strstr(captured, "another place\n"));
}

/* A reader that has stopped reading: lines are lost, and whoever writes them goes on. */
static void
lose_lines(int ends[2])
{
	char text[65536];
	ssize_t got;

	real_stderr = dup(STDERR_FILENO);
	dup2(ends[1], STDERR_FILENO);
	/* As long as a line can be. */
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (int i = 0; i < 20; i++) {
		struct log_site site = {.file = "place.c"};

		for (int j = 0; j < 90; j++)
			log_write(LOG_LEVEL_WARNING, &site, "%s", text);
	}
	assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
	while ((got = read(ends[0], captured, sizeof(captured))) > 0)
		;
	log_notice("read again");
	log_notice("and again");
	got = read(ends[0], captured, sizeof(captured) - 1);
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	close(ends[0]);
	close(ends[1]);
	assert_true(got > 0);
	captured[got] = '\0';
	assert_non_null(strstr(captured, "NOTICE: read again ("));
	assert_non_null(strstr(captured, " lines before it were lost)\n"));
	assert_non_null(strstr(captured, "NOTICE: and again\n"));
}

static void
test_nobody_reads(void **state)
{
	int ends[2];

	(void)state;
	assert_int_equal(pipe(ends), 0);
	lose_lines(ends);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	lose_lines(ends);
}

/* Each place has a limit of its own, whatever the others do meanwhile. */
static void
test_flood_from_many_places(void **state)
{
	static struct log_site sites[200];
	time_t first = coarse_second();

	(void)state;
	capture_begin(false);
	for (int i = 0; i < 200; i++)
		sites[i] = (struct log_site){.file = "place.c", .line = i};
	for (int i = 0; i < 150; i++) {
		for (int j = 0; j < 200; j += 64)
			log_write(LOG_LEVEL_WARNING, &sites[j], "place %d.", j);
	}
	capture_end();
	for (int j = 0; j < 200; j += 64) {
		char text[32];
		unsigned int lines;

		snprintf(text, sizeof(text), "place %d.", j);
		lines = count(captured, text);
		assert_in_range(lines, 100, 100 * (unsigned int)(coarse_second() - first + 1));
	}
}

static void *
write_lines(void *arg)
{
	for (int i = 0; i < 25; i++)
		log_notice("%s", (const char *)arg);
	return NULL;
}

static void
test_lines_of_threads_do_not_mix(void **state)
{
	pthread_t threads[4];
	const char *const texts[] = {"aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb",
				     "cccccccccccccccccccc", "dddddddddddddddddddd"};
	unsigned int lines = 0;

	(void)state;
	capture_begin(false);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_lines, (void *)texts[i]),
				 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	capture_end();
	for (int i = 0; i < 4; i++) {
		char line[64];

		snprintf(line, sizeof(line), "test_log: NOTICE: %s\n", texts[i]);
		lines += count(captured, line);
	}
	assert_int_equal(lines, 100);
	assert_int_equal(count(captured, "\n"), 100);
}

/* ---- the second sink ---- */

/* The service: whichever is there, it is this socket. */
static int service_fd = -1;
static struct sockaddr_un service;
static const char *existing; /* the path that exists */
static char used_path[sizeof(service.sun_path)];

ssize_t __real_sendto(int fd, const void *data, size_t size, int flags,
		      const struct sockaddr *address, socklen_t length);
ssize_t __wrap_sendto(int fd, const void *data, size_t size, int flags,
		      const struct sockaddr *address, socklen_t length);
int __wrap_access(const char *path, int mode);

ssize_t
__wrap_sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
	      socklen_t length)
{
	memcpy(used_path, ((const struct sockaddr_un *)address)->sun_path, sizeof(used_path));
	assert_int_equal(length, sizeof(service));
	return __real_sendto(fd, data, size, flags, (const struct sockaddr *)&service,
			     sizeof(service));
}

int
__wrap_access(const char *path, int mode)
{
	(void)mode;
	return strcmp(path, existing) == 0 ? 0 : -1;
}

static void
service_open(const char *path)
{
	existing = path;
	service = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(service.sun_path, sizeof(service.sun_path), "%s/vhostd-log-%d",
		 getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", (int)getpid());
	service_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(service_fd, (struct sockaddr *)&service, sizeof(service)), 0);
}

static void
service_close(void)
{
	close(service_fd);
	unlink(service.sun_path);
}

/* The next datagram; "" when there is none. */
static const char *
service_read(void)
{
	ssize_t got = recv(service_fd, captured, sizeof(captured) - 1, 0);

	captured[got > 0 ? got : 0] = '\0';
	return captured;
}

static void
test_journal_sink(void **state)
{
	char expected[128];
	int line;

	(void)state;
	service_open("/run/systemd/journal/socket");
	log_set_print_level(LOG_LEVEL_DISABLED);
	log_open_syslog("vhostd");
	log_set_level(LOG_LEVEL_WARNING);
	line = __LINE__ + 1;
	log_warn("queue %d:\nodd", 7);
	log_notice("not for it");
	assert_string_equal(used_path, "/run/systemd/journal/socket");
	snprintf(expected, sizeof(expected),
		 "PRIORITY=4\nSYSLOG_IDENTIFIER=vhostd\nCODE_FILE=test_log.c\nCODE_LINE=%d\n"
		 "MESSAGE=queue 7:\\x0aodd\n",
		 line);
	assert_string_equal(service_read(), expected);
	assert_string_equal(service_read(), "");
	service_close();
}

static void
test_syslog_sink(void **state)
{
	char month[4], expected[64];
	int priority, day, hour, minute, second, end = 0;

	(void)state;
	service_open("/dev/log");
	log_set_print_level(LOG_LEVEL_DISABLED);
	log_open_syslog("vhostd");
	log_err("disk gone");
	assert_string_equal(used_path, "/dev/log");
	assert_int_equal(sscanf(service_read(), "<%d>%3s %d %d:%d:%d %n", &priority, month, &day,
				&hour, &minute, &second, &end),
			 6);
	assert_int_equal(priority, 3 << 3 | 3); /* daemon.err */
	snprintf(expected, sizeof(expected), "vhostd[%d]: disk gone", (int)getpid());
	assert_string_equal(captured + end, expected);
	service_close();
}

/* A service that hangs, and one that is gone for a while: nobody waits, and later lines say so. */
static void
test_second_sink_that_hangs(void **state)
{
	char text[8192];
	unsigned int read = 0;

	(void)state;
	service_open("/dev/log");
	log_set_print_level(LOG_LEVEL_DISABLED);
	log_open_syslog("vhostd");
	/* As long as a line can be. */
	memset(text, '\x01', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (int i = 0; i < 50; i++) {
		struct log_site site = {.file = "place.c"};

		for (int j = 0; j < 90; j++)
			log_write(LOG_LEVEL_WARNING, &site, "%s", text);
	}
	while (service_read()[0] != '\0') {
		assert_null(strstr(captured, "were lost"));
		assert_true(strlen(captured) < 4096 + 512);
		read++;
	}
	assert_in_range(read, 1, 50 * 90 - 1);
	log_notice("read again");
	snprintf(text, sizeof(text), ": read again (%u lines before it were lost)", 50 * 90 - read);
	assert_non_null(strstr(service_read(), text));
	log_notice("and again");
	assert_null(strstr(service_read(), "lost"));

	service_close();
	log_notice("nobody there");
	service_open("/dev/log");
	log_notice("somebody there");
	assert_non_null(strstr(service_read(), ": somebody there (1 lines before it were lost)"));
	service_close();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_form, reset),
		cmocka_unit_test_setup(test_file_has_time, reset),
		cmocka_unit_test_setup(test_journal_has_priority, reset),
		cmocka_unit_test_setup(test_thresholds, reset),
		cmocka_unit_test_setup(test_level_names, reset),
		cmocka_unit_test_setup(test_flags, reset),
		cmocka_unit_test_setup(test_hostile_text, reset),
		cmocka_unit_test_setup(test_long_text, reset),
		cmocka_unit_test_setup(test_errno_is_kept, reset),
		cmocka_unit_test_setup(test_flood, reset),
		cmocka_unit_test_setup(test_flood_from_many_places, reset),
		cmocka_unit_test_setup(test_nobody_reads, reset),
		cmocka_unit_test_setup(test_lines_of_threads_do_not_mix, reset),
		cmocka_unit_test_setup(test_journal_sink, reset),
		cmocka_unit_test_setup(test_syslog_sink, reset),
		cmocka_unit_test_setup(test_second_sink_that_hangs, reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
