/* SPDX-License-Identifier: BSD-3-Clause */
/* vhostctl_doctor: what is looked at, and what it means. Private to rpc/. */
#ifndef VHOSTD_VHOSTCTL_DOCTOR_H
#define VHOSTD_VHOSTCTL_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

#include "cpumask.h"
#include "vhostctl.h"

#define FINDING_MAX 256

enum health {
	HEALTH_OK,
	HEALTH_NOTE, /* may hurt some uses, or be as it is meant to be */
	HEALTH_BAD,  /* hurts */
};

/* What the checks look at. */
struct patient {
	const char *root;   /* in front of /proc and /sys; "": this machine */
	const char *socket; /* of the daemon's RPC */

	/* as the daemon says, if it answers */
	bool answers;
	char why[ERRMSG_MAX]; /* it does not */
	long pid;             /* 0: unknown */
	struct cpumask reactors;
	bool polls;      /* a reactor is in mode poll */
	json_t *sockets; /* array of strings: the controllers' */
};

struct check {
	const char *name;
	/* Fills finding with what there is. */
	enum health (*look)(const struct patient *patient, char finding[FINDING_MAX]);
	const char *meaning; /* why it matters */
	const char *mend;
};

extern const struct check doctor_checks[];
extern const size_t doctor_check_count;

/* Of the process that the limits are those of: a folder of /proc. */
void doctor_proc_file(const struct patient *patient, const char *name, char *path, size_t size);

/* The first line of a file below root, without its newline, or false. */
bool doctor_read(const struct patient *patient, const char *file, char *text, size_t size);

/* A number that a file below root is or begins with, or -1. */
long long doctor_number(const struct patient *patient, const char *file);

/*
 * What follows the key in the first line of the file that begins with it ("MemTotal:"), without the
 * space in between, or false.
 */
bool doctor_field(const struct patient *patient, const char *file, const char *key, char *text,
		  size_t size);

#endif
