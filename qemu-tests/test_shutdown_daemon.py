# SPDX-License-Identifier: BSD-3-Clause
"""The daemon restarts under a running guest whose disk is idle: it comes back from its state
file, QEMU connects again, and the guest goes on."""

import pytest

from guest import disk_arguments


def write_and_read(guest, count: int) -> list[str]:
    """Writes a block and returns what all blocks up to it hold, read from the device."""
    return guest.run(f"""
        printf '%-512s' 'round{count}' | dd of=/dev/vda bs=512 seek={count} oflag=direct 2>/dev/null
        echo 3 > /proc/sys/vm/drop_caches
        dd if=/dev/vda bs=512 count={count + 1} iflag=direct 2>/dev/null
    """).split()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_restart(vhostd, boot, how):
    image = vhostd.image()
    guest = boot(*disk_arguments([vhostd.serve(image)], "num-queues=2", reconnect=True), cpus=2)
    assert write_and_read(guest, 0) == ["round0"]
    for count in range(1, 4):
        getattr(vhostd, how)()
        vhostd.start()
        assert [controller["ctrlr"] for controller in vhostd.rpc("vhost_get_controllers")] == [
            "vhost.disk0"]
        assert write_and_read(guest, count) == [f"round{number}" for number in range(count + 1)]
    assert image.read_bytes()[3 * 512:4 * 512] == b"round3".ljust(512)


def test_restart_between_guest_boots(vhostd, boot):
    """The guest reboots after the daemon did: the new start works on the new daemon."""
    guest = boot(*disk_arguments([vhostd.serve(vhostd.image())], reconnect=True))
    assert write_and_read(guest, 0) == ["round0"]
    vhostd.stop()
    vhostd.start()
    guest.reboot()
    assert write_and_read(guest, 1) == ["round0", "round1"]


def test_stop_with_a_guest(vhostd, boot):
    """The daemon ends in time and cleanly although a guest has its disk in use."""
    guest = boot(*disk_arguments([vhostd.serve(vhostd.image())]))
    guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=4 oflag=direct")
    vhostd.stop()
    assert guest.run("echo alive") == "alive"


def test_guest_killed(vhostd, boot):
    """QEMU dies in the middle of requests; the disk serves the next guest."""
    disk = vhostd.serve(vhostd.image())
    first = boot(*disk_arguments([disk]))
    first.run("""
        fio --name=load --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=32 \
            --rw=randwrite --bs=4k --time_based --runtime=60 >/tmp/fio.log 2>&1 &
        until [ "$(awk '{print $7}' /sys/block/vda/stat)" -gt 2000 ]; do :; done
    """)
    first.process.kill()
    first.stop()
    second = boot(*disk_arguments([disk]))
    assert write_and_read(second, 0) == ["round0"]
