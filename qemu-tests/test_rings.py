# SPDX-License-Identifier: BSD-3-Clause
"""Each kind of virtqueue: split and packed, with and without EVENT_IDX, under the guest's own driver."""

import json

import pytest

from guest import disk_arguments

# Bit n of the features is character n of this file (virtio 1.2 §6).
FEATURES = "cat /sys/block/vda/device/features"
EVENT_IDX = 29
RING_PACKED = 34
MIB = 1 << 20

FIO = """
    fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=32 \
        --rw=randwrite --bsrange=512-64k --blockalign=512 --size=12m --numjobs=2 --offset_increment=32m \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=json --output=/tmp/fio.json
    cat /tmp/fio.json
"""


@pytest.mark.parametrize("packed", ["off", "on"])
@pytest.mark.parametrize("event_idx", ["off", "on"])
def test_verify(vhostd, boot, packed, event_idx):
    disk = vhostd.serve(vhostd.image(size=64 * MIB), packed_ring=True)
    guest = boot(*disk_arguments([disk], f"num-queues=2,packed={packed},event_idx={event_idx}"), cpus=2)
    features = guest.run(FEATURES).strip()
    assert (features[RING_PACKED] == "1") == (packed == "on")
    assert (features[EVENT_IDX] == "1") == (event_idx == "on")
    output = guest.run(FIO)
    jobs = json.loads(output[output.index("{"):])["jobs"]
    assert all(job["error"] == 0 for job in jobs)
    assert sum(job["read"]["io_bytes"] for job in jobs) == sum(job["write"]["io_bytes"] for job in jobs)
    assert sum(job["write"]["io_bytes"] for job in jobs) >= 24 * MIB


def test_packed_is_offered_on_request_only(vhostd, boot):
    disk = vhostd.serve(vhostd.image(size=64 * MIB))
    guest = boot(*disk_arguments([disk], "packed=on"))
    assert guest.run(FEATURES).strip()[RING_PACKED] == "0"


def test_packed_over_a_restart(vhostd, boot):
    """A packed queue goes on where it was after a guest's reboot."""
    disk = vhostd.serve(vhostd.image(size=64 * MIB), packed_ring=True)
    guest = boot(*disk_arguments([disk], "packed=on"))
    for number in range(3):
        guest.run(f"echo round {number} | dd of=/dev/vda bs=512 seek={number} conv=fsync,notrunc")
        guest.reboot()
    for number in range(3):
        assert f"round {number}" in guest.run(f"dd if=/dev/vda bs=512 skip={number} count=1")
