/* SPDX-License-Identifier: BSD-3-Clause */
/* top on a terminal, which may be of any size and change it. */
#include <curses.h>
#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vhostctl_top.h"

#define ROWS_MIN    6
#define COLUMNS_MIN 40
#define ANSWER_S    2  /* longer, and the daemon is shown as one that does not answer */
#define EMPTY_READS 10 /* without a key, one after the other: the terminal is gone */
#define KEY_ESCAPE  27

struct screen {
	struct top_source *source;
	struct top_view *view;
	json_t *sample;    /* the last one, or NULL */
	char problem[256]; /* why there is no newer one; empty: there is */
	int next_row;      /* to be drawn */
	bool typing_filter;
	bool quit;
	unsigned int empty_reads;
};

static volatile sig_atomic_t was_told_to_quit;

static void
on_signal(int signal)
{
	(void)signal;
	was_told_to_quit = 1;
}

static int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- drawing ---- */

static void
draw_line(void *ctx, enum top_style style, const char *line)
{
	static const attr_t attributes[] = {
		[TOP_PLAIN] = A_NORMAL,
		[TOP_TITLE] = A_BOLD,
		[TOP_HEADING] = A_REVERSE,
	};
	struct screen *screen = ctx;

	/* The last row is for the keys. */
	if (screen->next_row >= LINES - 1)
		return;
	attrset(attributes[style]);
	mvaddstr(screen->next_row++, 0, line);
	attrset(A_NORMAL);
}

static void
draw_foot(const struct screen *screen)
{
	const char *keys = "q quit  / filter  n b u i r w a p d e sort, again: reversed  "
			   "arrows scroll";

	move(LINES - 1, 0);
	if (screen->typing_filter)
		printw("filter: %.*s_", COLS - 10, screen->view->filter);
	else if (screen->problem[0] != '\0')
		addnstr(screen->problem, COLS - 1);
	else if (screen->view->filter[0] != '\0')
		printw("filter: %.*s  (/ and Escape: none)", COLS - 40, screen->view->filter);
	else
		addnstr(keys, COLS - 1);
}

/* Controllers stay on the screen when their number, or the screen, shrinks. */
static void
clamp_scroll(const struct screen *screen)
{
	size_t count = screen->sample != NULL ? top_count(screen->view, screen->sample) : 0;

	if (screen->view->first >= count)
		screen->view->first = count > 0 ? (unsigned int)count - 1 : 0;
}

static void
draw(struct screen *screen)
{
	erase();
	screen->next_row = 0;
	if (LINES < ROWS_MIN || COLS < COLUMNS_MIN) {
		mvaddnstr(0, 0, "the terminal is too small", COLS);
		refresh();
		return;
	}
	clamp_scroll(screen);
	/* In the last column the cursor would go on to the next row. */
	screen->view->width = (unsigned int)COLS - 1;
	screen->view->rows = (unsigned int)LINES;
	/* However many cores there are, most of the screen is for controllers. */
	screen->view->reactor_rows = (unsigned int)LINES / 4;
	if (screen->sample != NULL)
		top_print(screen->view, screen->sample, draw_line, screen);
	else
		draw_line(screen, TOP_TITLE, "waiting for the daemon");
	draw_foot(screen);
	refresh();
}

/* ---- keys ---- */

static void
type_filter(struct screen *screen, int key)
{
	char *filter = screen->view->filter;
	size_t len = strlen(filter);

	if (key == KEY_ESCAPE)
		filter[0] = '\0';
	if (key == KEY_ESCAPE || key == '\n' || key == '\r' || key == KEY_ENTER)
		screen->typing_filter = false;
	else if ((key == KEY_BACKSPACE || key == 0x7f || key == '\b') && len > 0)
		filter[len - 1] = '\0';
	else if (key >= ' ' && key < 0x7f && len + 1 < sizeof(screen->view->filter))
		memcpy(filter + len, (char[]){(char)key, '\0'}, 2);
}

static void
sort_by(struct top_view *view, int column)
{
	view->reversed = view->sort == column && !view->reversed;
	view->sort = column;
}

static void
handle_key(struct screen *screen, int key)
{
	struct top_view *view = screen->view;
	int page = LINES / 2;

	if (screen->typing_filter)
		type_filter(screen, key);
	else if (key == 'q' || key == 'Q')
		screen->quit = true;
	else if (key == '/')
		screen->typing_filter = true;
	else if (key == KEY_UP || key == KEY_PPAGE)
		view->first -= view->first < (unsigned int)(key == KEY_UP ? 1 : page)
				       ? view->first
				       : (unsigned int)(key == KEY_UP ? 1 : page);
	else if (key == KEY_DOWN || key == KEY_NPAGE)
		view->first += (unsigned int)(key == KEY_DOWN ? 1 : page);
	else if (top_column_of_key(key) >= 0)
		sort_by(view, top_column_of_key(key));
}

/* Waits for a key, a new size or the time. */
static void
wait_for_user(struct screen *screen, int64_t until)
{
	struct pollfd pollfd = {.fd = STDIN_FILENO, .events = POLLIN};
	int64_t left = until - now_ms();
	int n = poll(&pollfd, 1, left > 0 ? (int)left : 0);
	int key = getch();

	/* A terminal that is gone is readable for ever. */
	screen->empty_reads = n > 0 && key == ERR ? screen->empty_reads + 1 : 0;
	if (was_told_to_quit || screen->empty_reads >= EMPTY_READS)
		screen->quit = true;
	for (; key != ERR; key = getch())
		handle_key(screen, key);
}

/* ---- the whole ---- */

/* A daemon that does not answer is asked again the next time. */
static void
take_sample(struct screen *screen)
{
	struct errmsg err = {0};
	json_t *sample;

	screen->problem[0] = '\0';
	if (top_take(screen->source, &sample, &err) != STATUS_OK) {
		snprintf(screen->problem, sizeof(screen->problem), "%.255s", err.text);
		return;
	}
	json_decref(screen->sample);
	screen->sample = sample;
}

static void
run(struct screen *screen, double interval)
{
	int64_t next = now_ms();

	while (!screen->quit) {
		if (now_ms() >= next) {
			take_sample(screen);
			next = now_ms() + (int64_t)(interval * 1000);
		}
		draw(screen);
		wait_for_user(screen, next);
	}
}

enum vhostctl_status
top_screen(struct top_source *source, struct top_view *view, double interval, struct errmsg *err)
{
	struct sigaction action = {.sa_handler = on_signal};
	const struct vhostctl_opts *given = source->opts;
	struct vhostctl_opts opts = *given;
	struct screen screen = {.source = source, .view = view};
	SCREEN *terminal;

	opts.timeout_s = opts.timeout_s < ANSWER_S ? opts.timeout_s : ANSWER_S;
	setlocale(LC_CTYPE, "");
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	terminal = newterm(NULL, stdout, stdin);
	if (terminal == NULL)
		return err_set(err, STATUS_FAILED, "top: the terminal '%s' is not known",
			       getenv("TERM") != NULL ? getenv("TERM") : "");
	cbreak();
	noecho();
	curs_set(0);
	keypad(stdscr, TRUE);
	nodelay(stdscr, TRUE);
	source->opts = &opts;
	run(&screen, interval);
	endwin();
	delscreen(terminal);
	source->opts = given;
	json_decref(screen.sample);
	return STATUS_OK;
}
