# SPDX-License-Identifier: BSD-3-Clause
"""The daemon is killed while the guest writes and verifies, again and again: the guest waits, and notices nothing."""

import pytest

from daemon import wait_until
from guest import disk_arguments

MIB = 1 << 20
KILLS = 10
BUSY = 500              # requests that a daemon has had when it is killed

# Writes the disk and verifies all of it, with other data each time, until it is told to stop.
BEGIN = """
    (
        round=0
        until [ -e /tmp/stop ]; do
            fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite \
                --bs=4k --size=8m --numjobs=2 --offset_increment=32m --randseed=$round --verify=crc32c \
                --verify_fatal=1 --do_verify=1 >/tmp/fio.log 2>&1 || touch /tmp/stop /tmp/failed
            round=$((round + 1))
            echo $round >/tmp/rounds
        done
        touch /tmp/ended
    ) </dev/null >/dev/null 2>&1 &
"""
END = """
    touch /tmp/stop
    until [ -e /tmp/ended ]; do sleep 1; done
    if [ -e /tmp/failed ]; then cat /tmp/fio.log; exit 1; fi
    cat /tmp/rounds
"""


def completed(vhostd) -> int:
    """Reads and writes of the disk since the daemon started."""
    bdev = vhostd.rpc("bdev_get_iostat", name="disk0")["bdevs"][0]
    return bdev["num_read_ops"] + bdev["num_write_ops"]


def wait_until_busy(vhostd) -> None:
    """Until the guest works on this daemon: QEMU takes up to a second to come back."""
    wait_until(lambda: completed(vhostd) >= BUSY, "requests of the guest")


@pytest.mark.parametrize("packed", ["off", "on"])
def test_kill_under_load(vhostd, boot, packed):
    disk = vhostd.serve(vhostd.image(size=64 * MIB), packed_ring=True)
    guest = boot(*disk_arguments([disk], f"num-queues=2,packed={packed}", reconnect=True), cpus=2)
    guest.run(BEGIN)
    for _ in range(KILLS):
        wait_until_busy(vhostd)
        vhostd.kill()
        vhostd.start()
    wait_until_busy(vhostd)
    assert int(guest.run(END)) >= 1
    assert "error" not in guest.run("dmesg | grep -i 'vd[a-z].*error' || :")
