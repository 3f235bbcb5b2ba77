# SPDX-License-Identifier: BSD-3-Clause
"""Disks come and go while the guest runs."""

import pytest

from guest import disk_arguments

PORTS = [argument for number in (1, 2) for argument in (
    "-device", f"pcie-root-port,id=port{number},chassis={number},slot={number}")]


@pytest.fixture
def guest(boot):
    return boot(*PORTS, cpus=2)


def plug(guest, socket, number: int) -> None:
    """Adds a controller's disk as device hotN in port N."""
    guest.qmp.command("chardev-add", id=f"char{number}", backend={
        "type": "socket",
        "data": {"addr": {"type": "unix", "data": {"path": str(socket)}}, "server": False}})
    guest.qmp.command("device_add", driver="vhost-user-blk-pci", id=f"hot{number}",
                      chardev=f"char{number}", bus=f"port{number}")


def unplug(guest, *numbers: int) -> None:
    """Asks the guest to give the devices up and waits until QEMU has closed them."""
    for number in numbers:
        guest.qmp.command("device_del", id=f"hot{number}")
    for number in numbers:
        guest.qmp.wait_event("DEVICE_DELETED", device=f"hot{number}")
        guest.qmp.command("chardev-remove", id=f"char{number}")


def wait_for_disks(guest, names: str) -> None:
    """Waits until exactly these disks are there."""
    guest.run(f"""
        until [ "$(cd /sys/block && echo vd*)" = "{names}" ]; do
            usleep 50000
        done
    """)


def check_io(guest, disk: str) -> None:
    """Writes and verifies the disk's start."""
    guest.run(f"""
        fio --name={disk} --filename=/dev/{disk} --direct=1 --ioengine=libaio --iodepth=16 \
            --rw=randwrite --bs=4k --size=2m --verify=crc32c --verify_fatal=1
    """)


def test_plug_and_unplug(vhostd, guest):
    """The same disk comes and goes several times and keeps its data."""
    image = vhostd.image()
    socket = vhostd.serve(image)
    for count in range(3):
        plug(guest, socket, 1)
        wait_for_disks(guest, "vda")
        previous = guest.run("""
            dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | tr -d '\\0'
        """)
        assert previous == (f"plugged {count - 1}" if count else "")
        guest.run(f"""
            printf '%-512s' 'plugged {count}' | dd of=/dev/vda bs=512 oflag=direct
        """)
        unplug(guest, 1)
        wait_for_disks(guest, "vd*")
    assert image.read_bytes()[:512] == b"plugged 2".ljust(512)


def test_two_at_once(vhostd, guest):
    """Two disks are plugged together, used together and go together."""
    sockets = [vhostd.serve(vhostd.image(name), name) for name in ("left", "right")]
    for number, socket in enumerate(sockets, 1):
        plug(guest, socket, number)
    wait_for_disks(guest, "vda vdb")
    guest.run("""
        for disk in vda vdb; do
            fio --name=$disk --filename=/dev/$disk --direct=1 --ioengine=libaio --iodepth=16 \
                --rw=randwrite --bs=4k --size=4m --verify=crc32c --verify_fatal=1 &
            jobs="${jobs:-} $!"
        done
        for job in $jobs; do wait $job; done
    """)
    unplug(guest, 1, 2)
    wait_for_disks(guest, "vd*")


def test_controller_created_and_deleted_around_a_guest(vhostd, guest):
    """Controllers are made and deleted while another one's guest works."""
    plug(guest, vhostd.serve(vhostd.image("stays"), "stays"), 1)
    wait_for_disks(guest, "vda")
    for count in range(2):
        name = f"short{count}"
        plug(guest, vhostd.serve(vhostd.image(name), name), 2)
        wait_for_disks(guest, "vda vdb")
        check_io(guest, "vdb")
        unplug(guest, 2)
        wait_for_disks(guest, "vda")
        vhostd.rpc("vhost_delete_controller", ctrlr=f"vhost.{name}")
        assert not (vhostd.folder / f"vhost.{name}").exists()
        check_io(guest, "vda")


def test_unplug_under_load(vhostd, boot):
    """A disk goes away in the middle of requests; the other one and the daemon live on."""
    stays = vhostd.serve(vhostd.image("stays"), "stays")
    guest = boot(*disk_arguments([stays]), *PORTS, cpus=2)
    goes = vhostd.serve(vhostd.image("goes"), "goes")
    plug(guest, goes, 1)
    wait_for_disks(guest, "vda vdb")
    guest.run("""
        fio --name=load --filename=/dev/vdb --direct=1 --ioengine=libaio --iodepth=32 \
            --rw=randwrite --bs=4k --time_based --runtime=60 >/tmp/fio.log 2>&1 &
        until [ "$(awk '{print $7}' /sys/block/vdb/stat)" -gt 2000 ]; do :; done
    """)
    unplug(guest, 1)
    wait_for_disks(guest, "vda")
    check_io(guest, "vda")
    plug(guest, goes, 1)
    wait_for_disks(guest, "vda vdb")
    check_io(guest, "vdb")
