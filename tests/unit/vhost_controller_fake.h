/* SPDX-License-Identifier: BSD-3-Clause */
/* vhost_controller_fake: in place of the rest of the room: a controller that only is one. */
#ifndef VHOSTD_VHOST_CONTROLLER_FAKE_H
#define VHOSTD_VHOST_CONTROLLER_FAKE_H

#include "vhost/controller.h"

static struct vhost_controller controller;
static unsigned int config_changes, saves;

int
vhost_controller_check_name(const char *name, struct errmsg *err)
{
	(void)name;
	(void)err;
	return 0;
}

int
vhost_controller_create(const struct vhost_controller_opts *opts, struct errmsg *err)
{
	(void)err;
	controller.ops = opts->ops;
	controller.device = opts->device;
	return 0;
}

struct vhost_controller *
vhost_controller_of_device(const void *device)
{
	return device == controller.device ? &controller : NULL;
}

void
vhost_controller_config_changed(struct vhost_controller *changed)
{
	assert_ptr_equal(changed, &controller);
	config_changes++;
}

void
vhost_controllers_save(void)
{
	saves++;
}

#endif
