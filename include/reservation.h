/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * reservation: the persistent reservations of one logical unit (SPC-4 §5.13) as a value and
 * functions of it: no threads, no I/O; and what is kept of all disks through restarts, by UUID.
 * For lib/scsi.
 *
 * A struct scsi_reservations belongs to one thread at a time. It may be copied: who wants a change
 * on disk before it counts lets scsi_reserve_out() work on a copy, and hands that to
 * scsi_kept_change().
 *
 * Registrations live on when their nexus goes, and through every reset (SPC-4 §5.13.1). A nexus is
 * two names, so it makes no difference here who is connected at the moment.
 */
#ifndef VHOSTD_RESERVATION_H
#define VHOSTD_RESERVATION_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "errmsg.h"

#define SCSI_REGISTRATIONS_MAX 256

#define SCSI_TRANSPORT_ID_SIZE 24

/* Bytes. The longest answer: READ FULL STATUS of as many registrations as there can be. */
#define SCSI_RESERVE_IN_MAX (8 + SCSI_REGISTRATIONS_MAX * (24 + SCSI_TRANSPORT_ID_SIZE))
/* Bytes. The longest parameter list: REGISTER of as many. */
#define SCSI_RESERVE_OUT_MAX (28 + SCSI_REGISTRATIONS_MAX * SCSI_TRANSPORT_ID_SIZE)

/* ---- who ---- */

/*
 * An I_T nexus. The initiator port has a SAS address, from which its TransportID is made (SPC-4
 * §7.6.4.7: virtio-scsi has no form of its own). Target port: the relative target port identifier,
 * from 1. SPEC_I_PT registers others on the target port through which it came, so it is of use only
 * when initiators share a target port.
 */
struct scsi_nexus_id {
	uint64_t initiator;
	uint16_t target_port;
};

static inline bool
scsi_nexus_is_same(struct scsi_nexus_id a, struct scsi_nexus_id b)
{
	return a.initiator == b.initiator && a.target_port == b.target_port;
}

void scsi_transport_id_put(uint8_t id[SCSI_TRANSPORT_ID_SIZE], uint64_t initiator);
/* False when it is of another protocol or form, or the address is 0. */
bool scsi_transport_id_get(const uint8_t id[SCSI_TRANSPORT_ID_SIZE], uint64_t *initiator);

/* ---- what ---- */

/* SPC-4 §6.15.3.4; the wire's values. */
enum reservation_type {
	RESERVATION_NONE = 0,
	RESERVATION_WRITE_EXCLUSIVE = 1,
	RESERVATION_EXCLUSIVE_ACCESS = 3,
	RESERVATION_WRITE_EXCLUSIVE_REGISTRANTS = 5,
	RESERVATION_EXCLUSIVE_ACCESS_REGISTRANTS = 6,
	RESERVATION_WRITE_EXCLUSIVE_ALL = 7, /* all registrants are holders */
	RESERVATION_EXCLUSIVE_ACCESS_ALL = 8,
};

struct scsi_registration {
	uint64_t key; /* not 0 */
	struct scsi_nexus_id nexus;
	bool holder; /* of the reservation; with types of all registrants nobody in particular */
};

struct scsi_reservations {
	bool can_persist;    /* set once: APTPL may be asked for */
	bool aptpl;          /* the last valid APTPL bit: all this survives a loss of power */
	uint8_t type;        /* enum reservation_type */
	uint16_t count;      /* of registrations, in the order in which they came */
	uint32_t generation; /* PRgeneration */
	struct scsi_registration registrations[SCSI_REGISTRATIONS_MAX];
};

/* Whether that one of its registrations is (one of) the holder(s) of the reservation, if any. */
bool scsi_registration_holds(const struct scsi_reservations *reservations,
			     const struct scsi_registration *registration);

/* Whether there can be a reservation of that type with so many registrations, holders of which. */
bool scsi_reservation_fits(int64_t type, uint32_t registrations, uint32_t holders);

/* Nothing registered. can_persist: APTPL is offered. */
void scsi_reservations_init(struct scsi_reservations *reservations, bool can_persist);

/* ---- the data path's check ---- */

/*
 * How a command stands to reservations (SPC-4 tables 65 and 208, SBC-4 table 13). PERSISTENT
 * RESERVE OUT is one that always runs: it has rules of its own.
 */
enum scsi_access {
	/*
	 * Whoever holds what: INQUIRY, LOG SENSE, PERSISTENT RESERVE IN, PREVENT ALLOW MEDIUM
	 * REMOVAL with PREVENT 0, READ CAPACITY, RECEIVE COPY RESULTS, REPORT LUNS, REPORT TARGET
	 * PORT GROUPS, REQUEST SENSE, START STOP UNIT with START 1 and POWER CONDITION 0, TEST UNIT
	 * READY.
	 */
	SCSI_ACCESS_ALWAYS,
	/*
	 * Unless reads are excluded as well: GET LBA STATUS, MODE SENSE, PRE-FETCH, READ, READ
	 * BUFFER, READ DEFECT DATA, RECEIVE DIAGNOSTIC RESULTS, REPORT SUPPORTED OPERATION CODES,
	 * REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS, VERIFY.
	 */
	SCSI_ACCESS_READ,
	/*
	 * Only in the absence of others' reservations: all the rest, also EXTENDED COPY, MODE
	 * SELECT, SANITIZE, SEND DIAGNOSTIC, SYNCHRONIZE CACHE, UNMAP.
	 */
	SCSI_ACCESS_WRITE,
};

/*
 * What one nexus may do now: whoever submits commands keeps a copy, which is replaced when
 * `changed` says so.
 */
struct scsi_reservation_view {
	uint8_t conflicts; /* 1 << enum scsi_access */
};

struct scsi_reservation_view scsi_reservation_view(const struct scsi_reservations *reservations,
						   struct scsi_nexus_id nexus);

/* Whether the command ends in RESERVATION CONFLICT. */
static inline bool
scsi_reservation_conflicts(struct scsi_reservation_view view, enum scsi_access access)
{
	return view.conflicts >> access & 1;
}

/* ---- the commands ---- */

enum scsi_reserve_status {
	SCSI_RESERVE_GOOD,
	SCSI_RESERVE_CONFLICT, /* RESERVATION CONFLICT; no sense data */
	SCSI_RESERVE_REFUSED,  /* CHECK CONDITION, ILLEGAL REQUEST, `code` */
};

/* Unit attentions: additional sense code << 8 | qualifier. */
enum scsi_reserve_attention {
	SCSI_RESERVE_NO_ATTENTION = 0,
	RESERVATIONS_PREEMPTED = 0x2a03,
	RESERVATIONS_RELEASED = 0x2a04,
	REGISTRATIONS_PREEMPTED = 0x2a05,
};

/* What a command did to one nexus. */
struct scsi_reserve_effect {
	struct scsi_nexus_id nexus;
	uint16_t attention; /* enum scsi_reserve_attention: to be established for the nexus */
	/*
	 * PREEMPT AND ABORT: its tasks are to be aborted before the command completes, all but this
	 * very command. May be the nexus that sent it.
	 */
	bool abort;
};

struct scsi_reserve_result {
	enum scsi_reserve_status status;
	/* With SCSI_RESERVE_REFUSED: additional sense code << 8 | qualifier. */
	uint16_t code;
	/* The field pointer: into the CDB, or else the parameter list; bit -1: the whole byte. */
	bool field_valid, field_in_cdb;
	uint16_t field;
	int8_t field_bit;
	/* With SCSI_RESERVE_GOOD: */
	bool changed; /* the state; PRgeneration alone does not count */
	uint32_t effect_count;
	/* At most one for each nexus. */
	struct scsi_reserve_effect effects[SCSI_REGISTRATIONS_MAX];
};

/*
 * PERSISTENT RESERVE OUT, from a nexus. cdb: the 10 bytes, whose reserved bits are checked
 * elsewhere. list: the parameter data, length bytes; it is not looked at when there are more than
 * SCSI_RESERVE_OUT_MAX. *result is overwritten. Unless it ends good, nothing has changed.
 */
void scsi_reserve_out(struct scsi_reservations *reservations, struct scsi_nexus_id nexus,
		      const uint8_t cdb[10], const uint8_t *list, size_t length,
		      struct scsi_reserve_result *result);

/*
 * PERSISTENT RESERVE IN: writes the answer, cut to the CDB's allocation length and to size. The
 * bytes written; result as above, without effects.
 */
size_t scsi_reserve_in(const struct scsi_reservations *reservations, const uint8_t cdb[10],
		       uint8_t *data, size_t size, struct scsi_reserve_result *result);

/* ---- as JSON ---- */

/*
 * {"type", "aptpl", "generation", "registrations": [{"initiator", "target_port", "key", "holder"}]},
 * all of the state but can_persist. New reference, or NULL: no memory.
 */
json_t *scsi_reservations_to_json(const struct scsi_reservations *reservations);

/*
 * Replaces the state (all but can_persist) by what the above gave; without "aptpl" it is true, and
 * without "generation" 0. 0, or -EINVAL with the reason in err, and nothing changed: it contradicts
 * itself, or is none of ours.
 */
int scsi_reservations_from_json(struct scsi_reservations *reservations, const json_t *json,
				struct errmsg *err);

/* ---- what is kept of all disks, by UUID; app thread ---- */

/* What MODE SELECT has made other than it is at first. */
enum scsi_mode_change {
	SCSI_MODE_WRITE_THROUGH = 1 << 0,    /* WCE 0 */
	SCSI_MODE_DESCRIPTOR_SENSE = 1 << 1, /* D_SENSE 1 */
	SCSI_MODE_WRITE_PROTECTED = 1 << 2,  /* SWP 1 */
	SCSI_MODE_CHANGES = 3,               /* how many there are */
};

/*
 * What initiators have made of a disk. A restart of this process is no event for them: all of it is
 * in the state, until its LUNs are removed for good, and reservations with APTPL until the disk is
 * deleted. Only when the machine was restarted, which is a loss of power, all goes but reservations
 * with APTPL.
 */
struct scsi_kept {
	uint8_t modes;   /* enum scsi_mode_change */
	bool power_lost; /* since it was saved: each initiator is to hear of a POWER ON */
	struct scsi_reservations reservations;
};

/*
 * boot: of the machine, at most SCSI_BOOT_MAX bytes that are others after its next start; copied.
 * NULL: not known, the power is never lost. commit, in a coroutine [waits], makes what
 * scsi_kept_config_json() says durable: 0, -EAGAIN (not now: the initiator is to try again) or what
 * went wrong. It is called before a command that changes anything is answered. NULL: nothing
 * outlives this process, and APTPL is not offered. is_wanted: whether a disk of that name and UUID
 * will have LUNs that cannot be made now; NULL: none will. Before the first disk is opened.
 */
#define SCSI_BOOT_MAX 36
void scsi_kept_start(const char *boot, int (*commit)(void),
		     bool (*is_wanted)(const char *name, const char *uuid));
/*
 * Array of {method, params} that restores all of it, of all disks, also of those that are not open.
 * NULL: no memory.
 */
json_t *scsi_kept_config_json(void);

#define SCSI_DISK_NAME_MAX 127 /* bytes */
#define SCSI_DISK_UUID     36  /* the same */
struct scsi_kept_opts {
	const char *uuid;           /* in lower case */
	const char *name;           /* for messages, and for scsi_kept_forget() */
	const char *boot;           /* during which it was kept; NULL: this one */
	const json_t *modes;        /* array of names; NULL: as at first */
	const json_t *reservations; /* as above; NULL: none */
};
/*
 * Takes the place of what is known of that disk, which is not open and need not exist. 0, -EINVAL,
 * -EBUSY (it is open), -ENOMEM.
 */
int scsi_kept_restore(const struct scsi_kept_opts *opts, struct errmsg *err);
/*
 * Of a disk, by its name or UUID, whose LUNs are removed for good: what goes with them is forgotten,
 * unless it still has one, or is wanted.
 */
void scsi_kept_release(const char *disk);
/* The same of one that is deleted: nothing stays. NULL: of all, at the end. */
void scsi_kept_forget(const char *disk);

/* What is known of the disk; the caller's until closed. NULL: no memory. */
struct scsi_kept *scsi_kept_open(const char *uuid, const char *name);
/* It stays as it is for the disk's next LUN. NULL is ignored. */
void scsi_kept_close(struct scsi_kept *kept);
/*
 * [waits] Replaces modes and reservations by next's when that is durable. 0, or what commit failed
 * with: nothing has changed.
 */
int scsi_kept_change(struct scsi_kept *kept, const struct scsi_kept *next);
/*
 * [waits] A reset of the logical unit, which cannot fail: if it cannot be saved, modes are after a
 * restart what they were before it.
 */
void scsi_kept_reset_modes(struct scsi_kept *kept);

#endif
