/* SPDX-License-Identifier: BSD-3-Clause */
/* vhostctl_options: the options of a command, as a table. Private to rpc/. */
#ifndef VHOSTD_VHOSTCTL_OPTIONS_H
#define VHOSTD_VHOSTCTL_OPTIONS_H

#include "vhostctl.h"

struct ctl_option {
	const char *name; /* "--rw" */
	enum {
		CTL_FLAG,    /* bool */
		CTL_TEXT,    /* const char *, which points into the arguments */
		CTL_NUMBER,  /* unsigned int */
		CTL_BYTES,   /* unsigned int: "4096", "4k", "1M" */
		CTL_SECONDS, /* double */
	} type;
	void *value;     /* preset by the caller */
	double min, max; /* of numbers, bytes and seconds */
};

/*
 * Reads "--name value" and "--name=value" of args; options ends with a NULL name. One argument
 * without "--" goes to *operand, if operand is not NULL.
 */
enum vhostctl_status ctl_parse_options(const char *command, const struct ctl_option *options,
				       char **args, const char **operand, struct errmsg *err);

#endif
