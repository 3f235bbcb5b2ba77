/* SPDX-License-Identifier: BSD-3-Clause */
/* eal_log: what DPDK has to say becomes lines of ours. Private to the room env; main thread. */
#ifndef VHOSTD_ENV_EAL_LOG_H
#define VHOSTD_ENV_EAL_LOG_H

/* Before rte_eal_init(). 0 or -ENOMEM. */
int eal_log_open(void);
/* After rte_eal_cleanup(). */
void eal_log_close(void);

#endif
