/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"

#define SET(member) offsetof(struct rpc_scsi_set_disk_state, member)

static const struct rpc_param set_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = SET(name),
	 .help = "of the block device"},
	{.name = "uuid",
	 .type = RPC_STRING,
	 .offset = SET(uuid),
	 .help = "of the block device, which need not exist yet; default: of the one of that name"},
	{.name = "boot_id",
	 .type = RPC_STRING,
	 .offset = SET(boot_id),
	 .help = "of the machine, when the state was kept; default: now"},
	{.name = "modes",
	 .type = RPC_JSON,
	 .offset = SET(modes),
	 .help = "what MODE SELECT has changed: an array of write_through (WCE is 0), "
		 "descriptor_sense (D_SENSE is 1), write_protected (SWP is 1); default: nothing"},
	{.name = "reservations",
	 .type = RPC_JSON,
	 .offset = SET(reservations),
	 .help = "{type, aptpl, generation, registrations: an array of {initiator, target_port, "
		 "key, holder}}; default: none"},
};

const struct rpc_schema rpc_scsi_schemas[RPC_SCSI_METHODS + 1] = {
	[RPC_SCSI_SET_DISK_STATE] =
		{
			.name = "scsi_set_disk_state",
			.alias = "scsi_set_reservations",
			.room = "SCSI",
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = set_params,
			.param_count = RPC_COUNT(set_params),
			.params_size = sizeof(struct rpc_scsi_set_disk_state),
			.help = "Takes over what initiators have made of a SCSI disk, as "
				"framework_get_config has it: mode pages and persistent "
				"reservations. For one that no SCSI target has now; in place of "
				"what is known of it, and without modes and reservations nothing "
				"is. Of another boot of the machine only reservations with aptpl "
				"are taken over. Answers true.\n"
				"Errors: -16 (a target has it), -19 (No such device), -22 (no such "
				"modes or reservations can be).",
		},
};
