# SPDX-License-Identifier: BSD-3-Clause
"""SeaBIOS boots from a virtio-scsi disk: it polls one queue, and gives the event queue no
buffers."""

import pytest

from guest import Qemu, disk_arguments, machine_arguments
from scsi_guest import DRIVER
from test_firmware import BUSES, MARKER, write_bios_disk


@BUSES
@pytest.mark.parametrize("target", [0, 255])
def test_seabios(vhostd, folder, start_qemu, port, properties, target):
    image = vhostd.image(size=8 << 20)
    write_bios_disk(image, folder)
    vhostd.rpc("bdev_uring_create", name="disk0", filename=str(image), block_size=512)
    socket = vhostd.serve_scsi({target: "disk0"})
    disk = disk_arguments([socket], properties, driver=DRIVER)
    qemu = start_qemu(Qemu(folder, [*machine_arguments(), *port, *disk]))
    qemu.wait_console(MARKER)
