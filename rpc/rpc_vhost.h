/* SPDX-License-Identifier: BSD-3-Clause */
/* rpc_vhost: what the methods for controllers share. */
#ifndef VHOSTD_RPC_VHOST_H
#define VHOSTD_RPC_VHOST_H

/*
 * Forgets the targets of a SCSI controller that the state names and that could not be made, and
 * that it was to be started. App thread.
 */
void rpc_vhost_scsi_give_up_targets(const char *ctrlr);

#endif
