/* SPDX-License-Identifier: BSD-3-Clause */
/* What is kept of all disks, those that are there and those that are not now, by UUID. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>

#include "reservation.h"

struct entry {
	TAILQ_ENTRY(entry) link;
	char uuid[SCSI_DISK_UUID + 1];
	char name[SCSI_DISK_NAME_MAX + 1];
	char boot[SCSI_BOOT_MAX + 1]; /* during which it was kept; "": not known */
	bool open;
	const struct scsi_kept *saving; /* not in force yet; or NULL */
	struct scsi_kept now;
};

static TAILQ_HEAD(, entry) entries = TAILQ_HEAD_INITIALIZER(entries);
static char this_boot[SCSI_BOOT_MAX + 1];
static int (*commit)(void);
static bool (*is_wanted)(const char *name, const char *uuid);

void
scsi_kept_start(const char *boot, int (*commit_fn)(void),
		bool (*is_wanted_fn)(const char *name, const char *uuid))
{
	snprintf(this_boot, sizeof(this_boot), "%s", boot != NULL ? boot : "");
	commit = commit_fn;
	is_wanted = is_wanted_fn;
}

static struct entry *
find(const char *uuid)
{
	struct entry *entry;

	TAILQ_FOREACH (entry, &entries, link) {
		if (strcasecmp(entry->uuid, uuid) == 0)
			return entry;
	}
	return NULL;
}

static void
drop(struct entry *entry)
{
	TAILQ_REMOVE(&entries, entry, link);
	free(entry);
}

/* There is nothing that a disk of which nothing is known has not. */
static bool
is_empty(const struct scsi_kept *kept)
{
	const struct scsi_reservations *reservations = &kept->reservations;

	return kept->modes == 0 && reservations->count == 0 && !reservations->aptpl &&
	       reservations->generation == 0;
}

/* What outlives neither a loss of power nor the disk's LUNs. */
static void
reset(struct scsi_kept *kept)
{
	kept->modes = 0;
	kept->reservations.generation = 0;
	if (!kept->reservations.aptpl || kept->reservations.count == 0)
		scsi_reservations_init(&kept->reservations, false);
}

/* Of one that is not known nobody can tell. */
static bool
is_another_boot(const char *boot)
{
	return boot[0] != '\0' && this_boot[0] != '\0' && strcmp(boot, this_boot) != 0;
}

/* ---- in use ---- */

struct scsi_kept *
scsi_kept_open(const char *uuid, const char *name)
{
	struct entry *entry = find(uuid);

	if (entry == NULL) {
		entry = calloc(1, sizeof(*entry));
		if (entry == NULL)
			return NULL;
		snprintf(entry->uuid, sizeof(entry->uuid), "%s", uuid);
		TAILQ_INSERT_TAIL(&entries, entry, link);
	} else if (is_another_boot(entry->boot)) {
		reset(&entry->now);
		entry->now.power_lost = true;
	}
	/* Not before it is open: until then the loss of power is to come. */
	memcpy(entry->boot, this_boot, sizeof(entry->boot));
	snprintf(entry->name, sizeof(entry->name), "%s", name);
	entry->open = true;
	entry->now.reservations.can_persist = commit != NULL;
	return &entry->now;
}

static struct entry *
entry_of(struct scsi_kept *now)
{
	return (struct entry *)((char *)now - offsetof(struct entry, now));
}

void
scsi_kept_close(struct scsi_kept *now)
{
	if (now == NULL)
		return;
	entry_of(now)->open = false;
	if (is_empty(now) && !now->power_lost)
		drop(entry_of(now));
}

int
scsi_kept_change(struct scsi_kept *now, const struct scsi_kept *next)
{
	struct entry *entry = entry_of(now);
	int rc;

	entry->saving = next;
	rc = commit != NULL ? commit() : 0;
	entry->saving = NULL;
	if (rc != 0)
		return rc;
	now->modes = next->modes;
	now->reservations = next->reservations;
	return 0;
}

void
scsi_kept_reset_modes(struct scsi_kept *now)
{
	struct scsi_kept next = *now;

	next.modes = 0;
	if (now->modes != 0)
		scsi_kept_change(now, &next);
	now->modes = 0;
}

void
scsi_kept_release(const char *disk)
{
	struct entry *entry, *next;

	for (entry = TAILQ_FIRST(&entries); entry != NULL; entry = next) {
		next = TAILQ_NEXT(entry, link);
		if (entry->open ||
		    (strcmp(entry->name, disk) != 0 && strcasecmp(entry->uuid, disk) != 0) ||
		    (is_wanted != NULL && is_wanted(entry->name, entry->uuid)))
			continue;
		reset(&entry->now);
		entry->now.power_lost = false;
		if (is_empty(&entry->now))
			drop(entry);
	}
}

void
scsi_kept_forget(const char *disk)
{
	struct entry *entry, *next;

	for (entry = TAILQ_FIRST(&entries); entry != NULL; entry = next) {
		next = TAILQ_NEXT(entry, link);
		if (!entry->open && (disk == NULL || strcmp(entry->name, disk) == 0 ||
				     strcasecmp(entry->uuid, disk) == 0))
			drop(entry);
	}
}

/* ---- in the state ---- */

static const char *const mode_names[SCSI_MODE_CHANGES] = {
	"write_through",
	"descriptor_sense",
	"write_protected",
};

/* NULL: no memory. */
static json_t *
modes_json(uint8_t modes)
{
	json_t *array = json_array();
	int rc = 0;

	for (unsigned int i = 0; i < SCSI_MODE_CHANGES; i++) {
		if (modes & 1u << i)
			rc |= json_array_append_new(array, json_string(mode_names[i]));
	}
	if (rc == 0)
		return array;
	json_decref(array);
	return NULL;
}

static int
parse_modes(const json_t *array, uint8_t *modes, struct errmsg *err)
{
	for (size_t i = 0; i < json_array_size(array); i++) {
		const char *name = json_string_value(json_array_get(array, i));
		unsigned int mode = 0;

		while (mode < SCSI_MODE_CHANGES &&
		       (name == NULL || strcmp(name, mode_names[mode]) != 0))
			mode++;
		if (mode == SCSI_MODE_CHANGES)
			return err_set(err, -EINVAL, "modes: number %zu is none", i);
		*modes |= (uint8_t)(1u << mode);
	}
	return array == NULL || json_is_array(array) ? 0 : err_set(err, -EINVAL, "modes: no array");
}

static json_t *
entry_json(const struct entry *entry)
{
	const struct scsi_kept *kept = entry->saving != NULL ? entry->saving : &entry->now;
	json_t *modes = modes_json(kept->modes);
	json_t *reservations = scsi_reservations_to_json(&kept->reservations);

	return json_pack("{s:s, s:{s:s, s:s, s:s, s:o, s:o}}", "method", "scsi_set_disk_state",
			 "params", "name", entry->name, "uuid", entry->uuid, "boot_id", entry->boot,
			 "modes", modes, "reservations", reservations);
}

json_t *
scsi_kept_config_json(void)
{
	json_t *array = json_array();
	const struct entry *entry;
	int rc = array != NULL ? 0 : -ENOMEM;

	TAILQ_FOREACH (entry, &entries, link) {
		if (!is_empty(entry->saving != NULL ? entry->saving : &entry->now))
			rc |= json_array_append_new(array, entry_json(entry));
	}
	if (rc == 0)
		return array;
	json_decref(array);
	return NULL;
}

static int
parse(const struct scsi_kept_opts *opts, struct entry *entry, struct errmsg *err)
{
	const char *boot = opts->boot != NULL ? opts->boot : this_boot;
	int rc = 0;

	if (strlen(opts->uuid) > SCSI_DISK_UUID || strlen(opts->name) > SCSI_DISK_NAME_MAX ||
	    strlen(boot) > SCSI_BOOT_MAX)
		return err_set(err, -EINVAL, "SCSI disk: its name, uuid or boot_id is too long");
	strcpy(entry->uuid, opts->uuid);
	strcpy(entry->name, opts->name);
	strcpy(entry->boot, boot);
	if (opts->reservations != NULL)
		rc = scsi_reservations_from_json(&entry->now.reservations, opts->reservations, err);
	return rc == 0 ? parse_modes(opts->modes, &entry->now.modes, err) : rc;
}

int
scsi_kept_restore(const struct scsi_kept_opts *opts, struct errmsg *err)
{
	struct entry *before = find(opts->uuid), *entry;
	int rc;

	if (before != NULL && before->open)
		return err_set(err, -EBUSY, "block device %s is a SCSI disk already", before->name);
	entry = calloc(1, sizeof(*entry));
	if (entry == NULL)
		return err_set(err, -ENOMEM, "SCSI disk %s: no memory", opts->name);
	rc = parse(opts, entry, err);
	if (rc != 0) {
		free(entry);
		return rc;
	}
	TAILQ_INSERT_TAIL(&entries, entry, link);
	if (before != NULL)
		drop(before);
	if (is_empty(&entry->now))
		drop(entry);
	return 0;
}
