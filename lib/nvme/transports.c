/* SPDX-License-Identifier: BSD-3-Clause */
/* Alone in its object file: a test may have transports of its own instead. */
#include <stddef.h>

#include "transport.h"

const struct nvme_transport_ops *const nvme_transports[] = {
	&nvme_transport_pcie,
	&nvme_transport_vfio_user,
	NULL,
};
