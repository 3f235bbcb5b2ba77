# SPDX-License-Identifier: BSD-3-Clause
"""Persistent reservations between two guests on one disk: what each type lets through, and that
PREEMPT AND ABORT fences a guest that writes."""

import pytest

from daemon import wait_until
from scsi_guest import boot_scsi, disk, sg_node

MIB = 1 << 20
LUN = "0:0:0:0"
KEYS = {"left": "a1", "right": "b2"}

# Type: its code, and what others may do, registered or not: read, write.
TYPES = {
    "write exclusive": (1, "read", "read"),
    "exclusive access": (3, "", ""),
    "write exclusive, registrants only": (5, "read", "read write"),
    "exclusive access, registrants only": (6, "", "read write"),
    "write exclusive, all registrants": (7, "read", "read write"),
    "exclusive access, all registrants": (8, "", "read write"),
}

ROUNDS = 4
# The disk takes 64 writes a second: what is under way when it is fenced would go on landing for
# half a second.
MBYTES_PER_SEC = 1
BLOCK = "16k"
QUEUE_DEPTH = 32
REGION = MIB
SETTLE = 2              # seconds that the disk must not change for
BUSY = 2 * QUEUE_DEPTH  # writes of a round before it ends
# Errors are what the fenced writer is to see: EIO (aborted), EBADE (reservation conflict).
WRITER = f"""
    dmesg -n 1
    fio --name=writer --filename=/dev/{{disk}} --direct=1 --ioengine=libaio \\
        --iodepth={QUEUE_DEPTH} --rw=randwrite --bs={BLOCK} --size={REGION} --refill_buffers \\
        --norandommap --time_based --runtime=600 \\
        --rate_iops=2000 --ignore_error=,5:52 >/tmp/fio.log 2>&1 &
    echo $! >/tmp/writer
"""


class Node:
    """A guest of the cluster."""

    def __init__(self, name: str, guest) -> None:
        self.guest = guest
        self.key = KEYS[name]
        self.disk = disk(guest, LUN)
        self.node = sg_node(guest, LUN)

    def out(self, action: str, **options) -> None:
        """PERSISTENT RESERVE OUT. First the unit attention goes that another's has left."""
        words = " ".join(f"--{name.replace('_', '-')}={value}" for name, value in options.items())
        self.guest.run(f"""
            sg_turs {self.node} >/dev/null 2>&1 || :
            sg_persist --no-inquiry --out --{action} {words} {self.node} 2>&1
        """)

    def read_in(self, what: str) -> str:
        """PERSISTENT RESERVE IN."""
        return self.guest.run(f"sg_persist --no-inquiry --in --{what} {self.node} 2>&1")

    def register(self) -> None:
        self.out("register-ignore", param_sark=self.key)

    def unregister(self) -> None:
        self.out("register-ignore", param_sark=0)

    def may(self) -> str:
        """What the disk lets through: read, write."""
        return self.guest.run(f"""
            cd /tmp
            dd if=/dev/{self.disk} of=block bs=4096 count=1 iflag=direct 2>/dev/null && echo read
            dd if=/dev/zero of=/dev/{self.disk} bs=4096 seek=1 count=1 oflag=direct 2>/dev/null &&
                echo write || :
        """).replace("\n", " ")

    def digest(self) -> str:
        """What the disk holds now."""
        return self.guest.run(f"""
            dd if=/dev/{self.disk} bs=128k count={REGION >> 17} iflag=direct 2>/dev/null | sha256sum
        """)

    def errors(self) -> int:
        """Requests of the kernel that have failed."""
        return int(self.guest.run(f"cat /sys/block/{self.disk}/device/ioerr_cnt"), 16)


@pytest.fixture
def cluster(vhostd, boot):
    """Two guests with one disk, each through a controller of its own."""
    vhostd.rpc("bdev_malloc_create", name="shared", num_blocks=16 * MIB // 512, block_size=512)
    nodes = []
    for name in KEYS:
        socket = vhostd.serve_scsi({0: "shared"}, name)
        nodes.append(Node(name, boot_scsi(boot, [socket], [LUN], name=name)))
    return nodes


def writes(vhostd) -> int:
    """Writes that the disk has completed."""
    return vhostd.rpc("bdev_get_iostat", name="shared")["bdevs"][0]["num_write_ops"]


def check_types(left: Node, right: Node) -> None:
    left.register()
    for name, (code, unregistered, registered) in TYPES.items():
        left.out("reserve", param_rk=left.key, prout_type=code)
        assert name.split(",")[0] in right.read_in("read-reservation").lower()
        assert right.may() == unregistered, f"{name}, not registered"
        right.register()
        assert right.may() == registered, f"{name}, registered"
        assert left.may() == "read write", f"{name}, holder"
        right.unregister()
        left.out("release", param_rk=left.key, prout_type=code)
        assert right.may() == "read write", f"{name}, released"
    left.unregister()


def check_others(left: Node, right: Node) -> None:
    """PREEMPT, CLEAR, and what the reports say of it."""
    left.register()
    right.register()
    keys = left.read_in("read-keys")
    assert "0xa1" in keys and "0xb2" in keys
    status = right.read_in("read-full-status")
    assert "0xa1" in status and "0xb2" in status
    assert "Write Exclusive" in right.read_in("report-capabilities")

    left.out("reserve", param_rk=left.key, prout_type=1)
    right.out("preempt", param_rk=right.key, param_sark=left.key, prout_type=3)
    assert "0xa1" not in right.read_in("read-keys")
    assert "Exclusive Access" in right.read_in("read-reservation")
    assert left.may() == ""
    right.out("clear", param_rk=right.key)
    assert "no registered" in right.read_in("read-keys").lower()
    assert left.may() == right.may() == "read write"


def test_reservations(cluster):
    check_types(*cluster)
    check_others(*cluster)


def test_fence(vhostd, cluster):
    """Not one write of a guest lands after the other's PREEMPT AND ABORT has completed, although
    it goes on trying; and it may write again when it has registered again."""
    left, right = cluster
    left.register()
    right.register()
    left.out("reserve", param_rk=left.key, prout_type=5)
    vhostd.rpc("bdev_set_qos_limit", name="shared", w_mbytes_per_sec=MBYTES_PER_SEC)
    left.guest.run(WRITER.format(disk=left.disk))
    for number in range(ROUNDS):
        before = writes(vhostd)
        wait_until(lambda: writes(vhostd) > before + BUSY, "writes of the guest")
        right.out("preempt-abort", param_rk=right.key, param_sark=left.key, prout_type=5)
        first = right.digest()
        landed = writes(vhostd)
        refused = left.errors()
        right.guest.run(f"sleep {SETTLE}")
        wait_until(lambda: left.errors() > refused + BUSY, "tries of the fenced guest")
        assert right.digest() == first, f"round {number}: the disk changed"
        assert writes(vhostd) == landed
        assert "0xa1" not in right.read_in("read-keys")
        left.register()
    left.guest.run("kill $(cat /tmp/writer)")
