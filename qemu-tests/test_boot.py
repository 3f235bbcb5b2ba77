# SPDX-License-Identifier: BSD-3-Clause
"""A guest boots with a disk and sees it as it was configured."""

import pytest

from guest import disk_arguments

SIZE = 48 << 20


@pytest.mark.parametrize("block_size", [512, 4096])
def test_disk_properties(vhostd, boot, block_size):
    disk = vhostd.serve(vhostd.image(size=SIZE), block_size=block_size)
    guest = boot(*disk_arguments([disk], "num-queues=2,queue-size=256"), cpus=2)
    values = guest.run("""
        cd /sys/block/vda
        cat size ro queue/logical_block_size
        ls mq | wc -l
    """).split()
    assert values == [str(SIZE // 512), "0", str(block_size), "2"]


def test_serial(vhostd, boot):
    """GET_ID answers the name of the block device, which tells two disks apart."""
    disks = [vhostd.serve(vhostd.image(name), name) for name in ("left", "right")]
    guest = boot(*disk_arguments(disks))
    assert guest.run("cat /sys/block/vda/serial; echo; cat /sys/block/vdb/serial").split() == [
        "left", "right"]


def test_limits(vhostd, boot):
    """The device offers discard, write zeroes and a write-back cache that can be flushed."""
    disk = vhostd.serve(vhostd.image())
    guest = boot(*disk_arguments([disk]))
    discard, zeroes, cache = guest.run("""
        cd /sys/block/vda/queue
        cat discard_max_bytes write_zeroes_max_bytes
        cat write_cache
    """).splitlines()
    assert int(discard) > 0
    assert int(zeroes) > 0
    assert cache == "write back"


def test_two_disks_are_not_mixed(vhostd, boot):
    """What is written to one disk is on that one, and not on the other."""
    images = [vhostd.image(name) for name in ("left", "right")]
    disks = [vhostd.serve(image, image.stem) for image in images]
    guest = boot(*disk_arguments(disks))
    guest.run("""
        for disk in vda vdb; do
            printf '%-512s' "this is $disk" | dd of=/dev/$disk bs=512 oflag=direct
        done
        sync
    """)
    assert [image.read_bytes()[:11] for image in images] == [b"this is vda", b"this is vdb"]
