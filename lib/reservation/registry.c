/* SPDX-License-Identifier: BSD-3-Clause */
/* The reservations of all disks, those that are there and those that are not now, by name. */
#include "reservation.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

struct entry {
	LIST_ENTRY(entry) link;
	char *disk;
	bool open;
	const struct scsi_reservations *saving; /* not in force yet; or NULL */
	struct scsi_reservations now;
};

static LIST_HEAD(, entry) entries = LIST_HEAD_INITIALIZER(entries);
static int (*commit)(void);

void
scsi_on_commit(int (*fn)(void))
{
	commit = fn;
}

static struct entry *
find(const char *disk)
{
	struct entry *entry;

	LIST_FOREACH (entry, &entries, link) {
		if (strcmp(entry->disk, disk) == 0)
			return entry;
	}
	return NULL;
}

static void
drop(struct entry *entry)
{
	LIST_REMOVE(entry, link);
	free(entry->disk);
	free(entry);
}

static struct entry *
find_or_add(const char *disk)
{
	struct entry *entry = find(disk);

	if (entry != NULL)
		return entry;
	entry = calloc(1, sizeof(*entry));
	if (entry == NULL)
		return NULL;
	LIST_INSERT_HEAD(&entries, entry, link);
	entry->disk = strdup(disk);
	if (entry->disk != NULL)
		return entry;
	drop(entry);
	return NULL;
}

struct scsi_reservations *
scsi_reservations_open(const char *disk)
{
	struct entry *entry = find_or_add(disk);

	if (entry == NULL)
		return NULL;
	entry->open = true;
	entry->now.can_persist = commit != NULL;
	return &entry->now;
}

static struct entry *
entry_of(struct scsi_reservations *now)
{
	return (struct entry *)((char *)now - offsetof(struct entry, now));
}

void
scsi_reservations_close(struct scsi_reservations *now)
{
	if (now == NULL)
		return;
	entry_of(now)->open = false;
	if (!now->aptpl)
		drop(entry_of(now));
}

int
scsi_reservations_change(struct scsi_reservations *now, const struct scsi_reservations *next,
			 bool save)
{
	struct entry *entry = entry_of(now);
	int rc;

	entry->saving = next;
	rc = save && commit != NULL ? commit() : 0;
	entry->saving = NULL;
	if (rc == 0)
		*now = *next;
	return rc;
}

json_t *
scsi_reservations_json(void)
{
	json_t *all = json_object(), *one;
	struct entry *entry;
	int rc = all != NULL ? 0 : -ENOMEM;

	LIST_FOREACH (entry, &entries, link) {
		if (rc == 0)
			rc = scsi_reservations_to_json(
				entry->saving != NULL ? entry->saving : &entry->now, &one);
		if (rc == 0 && one != NULL)
			rc = json_object_set_new(all, entry->disk, one);
	}
	if (rc == 0)
		return all;
	json_decref(all);
	return NULL;
}

json_t *
scsi_reservations_config_json(void)
{
	json_t *all = scsi_reservations_json();
	json_t *array = all != NULL ? json_array() : NULL;
	int rc = array != NULL ? 0 : -ENOMEM;
	const char *disk;
	json_t *state;

	json_object_foreach (all, disk, state)
		rc |= json_array_append_new(array, json_pack("{s:s, s:{s:s, s:O}}", "method",
							     "scsi_set_reservations", "params",
							     "name", disk, "reservations", state));
	json_decref(all);
	if (rc == 0)
		return array;
	json_decref(array);
	return NULL;
}

int
scsi_reservations_restore(const char *disk, const json_t *state, struct errmsg *err)
{
	struct entry *entry = find_or_add(disk);
	int rc;

	if (entry == NULL)
		return err_set(err, -ENOMEM, "SCSI disk %s: no memory", disk);
	if (entry->open)
		return err_set(err, -EBUSY, "block device %s is a SCSI disk already", disk);
	rc = scsi_reservations_from_json(&entry->now, state, err);
	if (!entry->now.aptpl)
		drop(entry);
	return rc;
}

void
scsi_reservations_forget(void)
{
	struct entry *entry = LIST_FIRST(&entries);

	while (entry != NULL) {
		struct entry *next = LIST_NEXT(entry, link);

		if (!entry->open)
			drop(entry);
		entry = next;
	}
}
