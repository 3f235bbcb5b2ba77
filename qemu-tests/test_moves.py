# SPDX-License-Identifier: BSD-3-Clause
"""A guest's queues on two reactors, and their threads moved from one to the other all the time."""

import contextlib
import json
import os
import threading

import pytest

from guest import disk_arguments

QUEUES = 4
MIB = 1 << 20
MOVE_INTERVAL = 0.1     # seconds
MOVES_MIN = 10

FIO = f"""
    fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k \\
        --size=8m --numjobs={QUEUES} --offset_increment=16m --loops=3 --verify=crc32c --verify_fatal=1 \\
        --do_verify=1 --cpus_allowed=0-{QUEUES - 1} --cpus_allowed_policy=split \\
        --output-format=json --output=/tmp/fio.json
    cat /tmp/fio.json
"""


def threads_of(vhostd, name: str) -> list[int]:
    stats = vhostd.rpc("thread_get_stats")
    return [thread["id"] for thread in stats["threads"] if thread["name"].startswith(f"vhost.{name}")]


def cores_of(vhostd, name: str) -> set[int]:
    reactors = vhostd.rpc("framework_get_reactors")["reactors"]
    return {reactor["lcore"] for reactor in reactors for thread in reactor["lw_threads"]
            if thread["name"].startswith(f"vhost.{name}")}


@contextlib.contextmanager
def moving(vhostd, name: str):
    """Moves each thread to the other core, all the time; the value is the list of what was done."""
    stop = threading.Event()
    moves = []

    def move() -> None:
        while not stop.wait(MOVE_INTERVAL):
            for thread in threads_of(vhostd, name):
                vhostd.rpc("thread_set_cpumask", id=thread, cpumask=f"[{(len(moves) + thread) % 2}]")
            moves.append(cores_of(vhostd, name))

    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield moves
    finally:
        stop.set()
        mover.join()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two reactors need two CPUs")
@pytest.mark.parametrize("packed", ["off", "on"])
def test_moves_under_load(vhostd, boot, packed):
    vhostd.stop()
    vhostd.cpus = "0,1"
    vhostd.start()
    disk = vhostd.serve(vhostd.image(size=64 * MIB), packed_ring=True)
    guest = boot(*disk_arguments([disk], f"num-queues={QUEUES},packed={packed}"), cpus=QUEUES)
    assert int(guest.run("ls /sys/block/vda/mq | wc -l")) == QUEUES
    assert cores_of(vhostd, "vhost.disk0") == {0, 1}
    with moving(vhostd, "vhost.disk0") as moves:
        output = guest.run(FIO, 300)
    assert len(moves) >= MOVES_MIN
    jobs = json.loads(output[output.index("{"):])["jobs"]
    assert all(job["error"] == 0 for job in jobs)
    assert sum(job["write"]["io_bytes"] for job in jobs) >= QUEUES * 8 * MIB
    queues = vhostd.rpc("vhost_get_stats", ctrlr="vhost.disk0", per_queue=True)[0]["queues"]
    assert sum(queue["requests"] > 100 for queue in queues) == QUEUES
