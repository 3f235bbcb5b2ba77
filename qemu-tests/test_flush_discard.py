# SPDX-License-Identifier: BSD-3-Clause
"""Flush, discard and write zeroes have their effect on the host's file."""

import pytest

from guest import disk_arguments

MIB = 1 << 20
# busybox's sh would take its own, lesser blkdiscard if it had no path.
BLKDISCARD = "/usr/sbin/blkdiscard"


@pytest.fixture
def image(vhostd):
    return vhostd.image(size=32 * MIB)


@pytest.fixture
def guest(vhostd, boot, image):
    return boot(*disk_arguments([vhostd.serve(image)]))


def fill(guest) -> None:
    """Writes 16 MiB of data that are not zero to the disk's start."""
    guest.run("""
        tr '\\0' 'U' < /dev/zero | head -c 16777216 > /tmp/data
        dd if=/tmp/data of=/dev/vda bs=1M conv=fsync
    """)


def test_fsync_reaches_the_file(vhostd, guest, image):
    """A buffered write is on the host after fsync; kill -9 of the daemon does not undo it."""
    guest.run("""
        printf '%-4096s' 'kept by fsync' > /tmp/data
        dd if=/tmp/data of=/dev/vda bs=4096 seek=5 conv=fsync
    """)
    vhostd.kill()
    data = image.read_bytes()
    assert data[5 * 4096:6 * 4096] == b"kept by fsync".ljust(4096)
    assert not any(data[:5 * 4096])


def test_direct_write_is_read_back_after_cache_drop(guest):
    """What comes back is from the device, not from the guest's cache."""
    assert guest.run("""
        printf '%-4096s' 'from the device' > /tmp/data
        dd if=/tmp/data of=/dev/vda bs=4096 seek=9 oflag=direct 2>/dev/null
        echo 3 > /proc/sys/vm/drop_caches
        dd if=/dev/vda bs=4096 skip=9 count=1 iflag=direct 2>/dev/null
    """) == "from the device"


def test_discard_frees_blocks(guest, image):
    fill(guest)
    before = image.stat().st_blocks
    assert before * 512 >= 16 * MIB
    guest.run(f"{BLKDISCARD} -o {4 * MIB} -l {8 * MIB} /dev/vda")
    assert image.stat().st_blocks * 512 <= before * 512 - 8 * MIB
    data = image.read_bytes()
    assert data[:4 * MIB] == b"U" * (4 * MIB)
    assert data[12 * MIB:16 * MIB] == b"U" * (4 * MIB)


def test_discard_of_the_whole_disk(guest, image):
    fill(guest)
    assert image.stat().st_blocks * 512 >= 16 * MIB
    guest.run(f"{BLKDISCARD} /dev/vda")
    assert image.stat().st_blocks == 0
    assert image.stat().st_size == 32 * MIB


def test_write_zeroes(guest, image):
    """The zeroed range, which is not aligned to pages, is zero and nothing else is."""
    fill(guest)
    start, length = 4 * MIB + 512, 6 * MIB + 1536
    guest.run(f"{BLKDISCARD} -z -o {start} -l {length} /dev/vda; sync")
    data = image.read_bytes()
    assert data[:start] == b"U" * start
    assert not any(data[start:start + length])
    assert data[start + length:16 * MIB] == b"U" * (16 * MIB - start - length)
    assert image.stat().st_size == 32 * MIB
