/* SPDX-License-Identifier: BSD-3-Clause */
/* Reservations of disks that are not there now. */
#include "reservation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

struct kept {
	LIST_ENTRY(kept) link;
	char *disk;
	struct scsi_reservations reservations;
};

static LIST_HEAD(, kept) all_kept = LIST_HEAD_INITIALIZER(all_kept);

static struct kept *
find(const char *disk)
{
	struct kept *kept;

	LIST_FOREACH (kept, &all_kept, link) {
		if (strcmp(kept->disk, disk) == 0)
			return kept;
	}
	return NULL;
}

static void
drop(struct kept *kept)
{
	LIST_REMOVE(kept, link);
	free(kept->disk);
	free(kept);
}

int
scsi_reservations_keep(const char *disk, const struct scsi_reservations *reservations)
{
	struct kept *kept = find(disk);

	if (kept == NULL) {
		kept = calloc(1, sizeof(*kept));
		if (kept == NULL)
			return -ENOMEM;
		kept->disk = strdup(disk);
		if (kept->disk == NULL) {
			free(kept);
			return -ENOMEM;
		}
		LIST_INSERT_HEAD(&all_kept, kept, link);
	}
	kept->reservations = *reservations;
	return 0;
}

void
scsi_reservations_take(const char *disk, struct scsi_reservations *reservations)
{
	struct kept *kept = find(disk);

	if (kept == NULL)
		return;
	*reservations = kept->reservations;
	drop(kept);
}

void
scsi_reservations_drop_kept(void)
{
	while (!LIST_EMPTY(&all_kept))
		drop(LIST_FIRST(&all_kept));
}

int
scsi_reservations_add(json_t *all, const char *disk, const struct scsi_reservations *reservations)
{
	json_t *one = NULL;
	int rc = scsi_reservations_to_json(reservations, &one);

	if (rc != 0 || one == NULL)
		return rc;
	return json_object_set_new(all, disk, one) == 0 ? 0 : -ENOMEM;
}

int
scsi_reservations_add_kept(json_t *all)
{
	const struct kept *kept;
	int rc = 0;

	LIST_FOREACH (kept, &all_kept, link)
		rc = rc != 0 ? rc : scsi_reservations_add(all, kept->disk, &kept->reservations);
	return rc;
}
