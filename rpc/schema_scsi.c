/* SPDX-License-Identifier: BSD-3-Clause */
#include "params.h"
#include "rpc.h"

#define SET(member) offsetof(struct rpc_scsi_set_reservations, member)

static const struct rpc_param set_params[] = {
	{.name = "name",
	 .type = RPC_STRING,
	 .required = true,
	 .offset = SET(name),
	 .help = "of the block device, which need not exist yet"},
	{.name = "reservations",
	 .type = RPC_JSON,
	 .required = true,
	 .offset = SET(reservations),
	 .help = "{type, registrations: an array of {initiator, target_port, key, holder}}"},
};

const struct rpc_schema rpc_scsi_schemas[RPC_SCSI_METHODS + 1] = {
	[RPC_SCSI_SET_RESERVATIONS] =
		{
			.name = "scsi_set_reservations",
			.room = "SCSI",
			.flags = RPC_RUNTIME | RPC_CHANGES,
			.params = set_params,
			.param_count = RPC_COUNT(set_params),
			.params_size = sizeof(struct rpc_scsi_set_reservations),
			.help = "Takes over persistent reservations of a block device as "
				"framework_get_config has them: those that initiators want to "
				"survive a restart (APTPL) are part of the configuration. For one "
				"that no SCSI target has. Answers true.\n"
				"Errors: -16 (a target has it), -22 (no such reservations can be).",
		},
};
