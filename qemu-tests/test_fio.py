# SPDX-License-Identifier: BSD-3-Clause
"""fio writes, reads back and verifies checksums of every block, through several queues."""

import json

import pytest

from guest import disk_arguments

FIO = """
    fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=32 \
        --rw=randwrite --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=7 \
        --output-format=json --output=/tmp/fio.json {options}
    cat /tmp/fio.json
"""
MIB = 1 << 20


def fio(guest, options: str) -> dict:
    """Runs fio in the guest and returns what the jobs did."""
    output = guest.run(FIO.format(options=options))
    jobs = json.loads(output[output.index("{"):])["jobs"]
    assert all(job["error"] == 0 for job in jobs)
    return jobs


def check_all_verified(jobs: list, expected: int) -> None:
    """Everything that was written, and at least as much as was asked for, was read back."""
    written = sum(job["write"]["io_bytes"] for job in jobs)
    assert written >= expected
    assert sum(job["read"]["io_bytes"] for job in jobs) == written


@pytest.mark.parametrize("block_size, total", [
    ("--bs=4k", 24 * MIB),
    ("--bs=64k", 48 * MIB),
    ("--bsrange=512-64k --bs_unaligned=0 --blockalign=512", 24 * MIB),
], ids=["4k", "64k", "512-64k"])
def test_verify(vhostd, boot, block_size, total):
    disk = vhostd.serve(vhostd.image(size=64 * MIB))
    guest = boot(*disk_arguments([disk]))
    check_all_verified(fio(guest, f"{block_size} --size={total}"), total)


def test_verify_blocks_of_4096(vhostd, boot):
    """A disk with 4 KiB blocks."""
    disk = vhostd.serve(vhostd.image(size=64 * MIB), block_size=4096)
    guest = boot(*disk_arguments([disk]))
    jobs = fio(guest, f"--bsrange=4k-32k --blockalign=4k --size={24 * MIB}")
    check_all_verified(jobs, 24 * MIB)


def test_verify_two_queues(vhostd, boot):
    """Two jobs, each on its own CPU and so on its own queue, each on half of the disk."""
    disk = vhostd.serve(vhostd.image(size=64 * MIB))
    guest = boot(*disk_arguments([disk], "num-queues=2"), cpus=2)
    assert guest.run("ls /sys/block/vda/mq").split() == ["0", "1"]
    jobs = fio(guest, "--bs=4k --size=12m --numjobs=2 --offset_increment=32m"
                      " --cpus_allowed=0,1 --cpus_allowed_policy=split")
    assert len(jobs) == 2
    check_all_verified(jobs, 24 * MIB)
    interrupts = guest.run("grep 'virtio.*-req' /proc/interrupts").splitlines()
    assert len(interrupts) == 2
    for number, line in enumerate(interrupts):
        counts = [int(word) for word in line.split()[1:3]]
        assert counts[number] > 100, f"queue {number} completed nothing on its CPU: {line}"


def test_reads_and_writes_mixed(vhostd, boot):
    """Reads verify blocks while others are being written."""
    disk = vhostd.serve(vhostd.image(size=64 * MIB))
    guest = boot(*disk_arguments([disk]))
    jobs = fio(guest, "--rw=randrw --bs=4k --size=24m --verify_backlog=64")
    assert sum(job["read"]["io_bytes"] for job in jobs) > 0
    assert sum(job["write"]["io_bytes"] for job in jobs) > 0
