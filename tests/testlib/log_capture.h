/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log_capture: keeps log lines instead of writing them. A test that uses it has this line:
 */
/* ldflags: -Wl,--wrap=log_write */
#ifndef VHOSTD_TESTLIB_LOG_CAPTURE_H
#define VHOSTD_TESTLIB_LOG_CAPTURE_H

/* Forgets the lines so far. */
void log_capture_reset(void);
/* How many lines there were. Any OS thread. */
unsigned int log_capture_count(void);
/* The last line, or "". Not while another OS thread may log. */
const char *log_capture_last(void);

#endif
