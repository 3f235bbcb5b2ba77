# SPDX-License-Identifier: BSD-3-Clause
"""virtio-scsi controllers: what the guest's tools say of their disks, I/O on several of them, and
targets that come, go and grow while the guest runs."""

import json
import re

import pytest

from daemon import wait_until
from guest import qemu_version
from scsi_guest import DRIVER, boot_scsi, disk, sg_node, wait_for_luns
from test_fs import host_e2fsck, host_read
from test_hotplug import PORTS

MIB = 1 << 20
SIZE = 32 * MIB
QUEUES = 4
# Target: its block devices, one a LUN.
TARGETS = {0: "alone", 1: ["first", "second"], 255: "last"}
LUNS = {"0:0:0:0": "alone", "0:0:1:0": "first", "0:0:1:1": "second", "0:0:255:0": "last"}
RECONNECT_QEMU = (8, 2)     # the first whose vhost-user-scsi comes back after a restart
KILLS = 5
BUSY = 300              # requests that a daemon has had when it is killed


@pytest.fixture
def images(vhostd):
    """The image of each block device."""
    made = {}
    for name in LUNS.values():
        made[name] = vhostd.image(name, SIZE)
        vhostd.rpc("bdev_uring_create", name=name, filename=str(made[name]), block_size=512)
    return made


@pytest.fixture
def socket(vhostd, images):
    return vhostd.serve_scsi(TARGETS)


# ---- what the disks say of themselves ----

def check_lsscsi(guest) -> None:
    lines = guest.run("/usr/bin/lsscsi -g -b -s").splitlines()
    assert [line.split()[0].strip("[]") for line in lines] == list(LUNS)
    for line in lines:
        assert re.search(r"/dev/sd[a-d]\s+/dev/sg[0-3]\s+33\.5MB", line), line


def check_luns(guest) -> None:
    def luns(lun: str, select: int) -> list[str]:
        output = guest.run(f"sg_luns --select={select} {sg_node(guest, lun)}")
        return re.findall(r"^    ([0-9a-f]{16})$", output, re.M)

    assert luns("0:0:0:0", 0) == ["0" * 16]
    assert luns("0:0:1:1", 0) == ["0" * 16, "0001" + "0" * 12]
    assert luns("0:0:255:0", 2) == ["0" * 16, "c101" + "0" * 12]


def check_inquiry(guest, node: str) -> None:
    inquiry = guest.run(f"sg_inq {node}")
    for text in ("PQual=0  PDT=0", "version=0x06", "[SPC-4]", "CmdQue=1", "VHOSTD"):
        assert text in inquiry, f"{text}:\n{inquiry}"


def check_pages(guest, node: str) -> str:
    """Every page that is offered can be read and decoded; returns the identification."""
    offered = guest.run(f"sg_vpd --page=sv --quiet {node}")
    codes = re.findall(r"^\s*0x([0-9a-f]+)|\[(\w+)\]", offered, re.M)
    assert len(codes) >= 8, offered
    pages = guest.run(f"sg_vpd --all {node}")
    assert "Unable to" not in pages and "malformed" not in pages, pages
    for text in ("Device identification", "Block limits", "Logical block provisioning",
                 "Block device characteristics", "Extended inquiry data"):
        assert text in pages, pages
    assert "Unmap command supported (LBPU): 1" in pages
    identification = guest.run(f"sg_vpd --page=di_lu {node}")
    assert "NAA" in identification or "UUID" in identification or "EUI" in identification
    return identification


def check_commands(guest, node: str) -> None:
    """Opcodes, mode pages, capacity, sense: the tools find nothing wrong in them."""
    opcodes = guest.run(f"sg_opcodes --rctd {node}")
    for text in ("Compare and write", "Unmap", "Persistent reserve out, preempt and abort",
                 "Get LBA status", "Write same(16)", "Verify(16)", "Report supported operation"):
        assert text in opcodes, f"{text}:\n{opcodes}"
    functions = guest.run(f"sg_opcodes --tmf {node}")
    for text in ("Abort task set", "Clear task set", "Logical unit reset", "I_T nexus reset"):
        assert text in functions, f"{text}:\n{functions}"
    modes = guest.run(f"sg_modes --all {node}")
    for text in ("Read-Write error recovery", "Caching", "Control"):
        assert text in modes, f"{text}:\n{modes}"
    assert "WP=0, DpoFua=1" in modes
    capacity = guest.run(f"sg_readcap --16 {node}")
    assert f"Number of logical blocks={SIZE // 512}" in capacity
    assert "lbpme=1" in capacity
    assert "No Sense" in guest.run(f"sg_requests {node}; sg_turs {node}")


def check_kernel(guest, name: str) -> None:
    """What the kernel has made of it."""
    values = guest.run(f"""
        cd /sys/block/{name}
        cat size ro queue/logical_block_size queue/fua
        ls mq | wc -l
        cat queue/discard_max_bytes queue/write_zeroes_max_bytes
        cat queue/write_cache device/queue_type
    """).splitlines()
    assert values[:5] == [str(SIZE // 512), "0", "512", "1", str(QUEUES)]
    assert int(values[5]) > 0 and int(values[6]) > 0
    assert values[7:] == ["write back", "simple"]


def test_pages(vhostd, socket, boot):
    guest = boot_scsi(boot, [socket], list(LUNS), f"num_queues={QUEUES}", cpus=QUEUES)
    check_lsscsi(guest)
    check_luns(guest)
    nodes = {lun: sg_node(guest, lun) for lun in LUNS}
    assert len({check_pages(guest, node) for node in nodes.values()}) == len(LUNS)
    for lun in ("0:0:0:0", "0:0:1:1"):
        check_inquiry(guest, nodes[lun])
        check_commands(guest, nodes[lun])
        check_kernel(guest, disk(guest, lun))
    assert not guest.run("dmesg | grep -i 'sd.*\\(error\\|fail\\|add. sense\\)' || :")


# ---- I/O ----

# A job for each LUN, each on a CPU and so on a queue of its own.
FIO = """
    fio --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=4k-128k \\
        --blockalign=4k --size={size} --randseed=7 --verify=crc32c --verify_fatal=1 --do_verify=1 \\
        --output-format=json --output=/tmp/fio.json {options} {jobs}
    cat /tmp/fio.json
"""


def fio(guest, size: int, options: str = "") -> list[dict]:
    jobs = " ".join(f"--name={name} --filename=/dev/{disk(guest, lun)} --cpus_allowed={number}"
                    for number, (lun, name) in enumerate(LUNS.items()))
    output = guest.run(FIO.format(size=size, options=options, jobs=jobs))
    found = json.loads(output[output.index("{"):])["jobs"]
    assert len(found) == len(LUNS)
    assert all(job["error"] == 0 for job in found)
    return found


def test_verify_four_luns(vhostd, socket, boot):
    """Four disks at once through four queues; nothing of one gets onto another."""
    guest = boot_scsi(boot, [socket], list(LUNS), f"num_queues={QUEUES}", cpus=QUEUES)
    for job in fio(guest, 8 * MIB):
        assert job["write"]["io_bytes"] >= 8 * MIB
        assert job["read"]["io_bytes"] == job["write"]["io_bytes"]
    interrupts = guest.run("grep 'virtio.*-request' /proc/interrupts").splitlines()
    assert len(interrupts) == QUEUES
    for number, line in enumerate(interrupts):
        counts = [int(word) for word in line.split()[1:1 + QUEUES]]
        assert counts[number] > 50, f"queue {number} completed nothing on its CPU: {line}"


def test_ext4(vhostd, images, socket, boot):
    guest = boot_scsi(boot, [socket], list(LUNS), cpus=2)
    guest.run(f"""
        disk=/dev/{disk(guest, "0:0:1:1")}
        mkfs.ext4 -q $disk
        mount $disk /mnt
        cp -a /usr/bin /usr/sbin /mnt
        for i in $(seq 200); do echo "file $i" > /mnt/$i; done
        (cd /mnt && find . -type f -exec sha256sum {{}} + > /tmp/sums)
        cp /tmp/sums /mnt/sums
        fstrim /mnt
        umount /mnt
        e2fsck -f -n $disk
        mount -o ro $disk /mnt
        (cd /mnt && sha256sum -c -s sums)
        umount /mnt
    """)
    host_e2fsck(images["second"])
    assert host_read(images["second"], "/200") == b"file 200\n"
    assert not images["first"].read_bytes()[:MIB].strip(b"\0")


# ---- targets that come, go and grow ----

def add_target(vhostd, number: int) -> None:
    assert vhostd.rpc("vhost_scsi_controller_add_target", ctrlr="vhost.scsi0",
                      scsi_target_num=number, bdev_name=TARGETS[number]) == number


def remove_target(vhostd, number: int) -> None:
    assert vhostd.rpc("vhost_scsi_controller_remove_target", ctrlr="vhost.scsi0",
                      scsi_target_num=number) is True


def luns_of(*targets: int) -> list[str]:
    return [lun for lun in LUNS if int(lun.split(":")[2]) in targets]


def check_io(guest, lun: str) -> None:
    """Writes and verifies the disk's start."""
    guest.run(f"""
        fio --name=check --filename=/dev/{disk(guest, lun)} --direct=1 --ioengine=libaio \\
            --iodepth=16 --rw=randwrite --bs=4k --size=2m --verify=crc32c --verify_fatal=1
    """)


def begin_load(guest, lun: str) -> None:
    """Writes the disk until it fails."""
    name = disk(guest, lun)
    guest.run(f"""
        fio --name=load --filename=/dev/{name} --direct=1 --ioengine=libaio --iodepth=32 \\
            --rw=randwrite --bs=4k --time_based --runtime=600 >/tmp/load.log 2>&1 &
        echo $! >/tmp/load
        until [ "$(awk '{{print $7}}' /sys/block/{name}/stat)" -gt 2000 ]; do :; done
    """)


def check_plug(vhostd, guest) -> None:
    """Targets come while others are there, one of them with two LUNs, and go."""
    for _ in range(2):
        add_target(vhostd, 1)
        wait_for_luns(guest, luns_of(0, 1))
        add_target(vhostd, 255)
        wait_for_luns(guest, luns_of(0, 1, 255))
        check_io(guest, "0:0:1:1")
        check_io(guest, "0:0:255:0")
        remove_target(vhostd, 1)
        wait_for_luns(guest, luns_of(0, 255))
        remove_target(vhostd, 255)
        wait_for_luns(guest, luns_of(0))


def check_unplug_under_load(vhostd, guest) -> None:
    """A target goes in the middle of requests, and comes back."""
    add_target(vhostd, 255)
    wait_for_luns(guest, luns_of(0, 255))
    begin_load(guest, "0:0:255:0")
    remove_target(vhostd, 255)
    wait_for_luns(guest, luns_of(0))
    guest.run("while kill -0 $(cat /tmp/load) 2>/dev/null; do usleep 50000; done")
    check_io(guest, "0:0:0:0")
    add_target(vhostd, 255)
    wait_for_luns(guest, luns_of(0, 255))
    check_io(guest, "0:0:255:0")


def check_resize(vhostd, guest, image) -> None:
    """The kernel sees the new size by itself."""
    with open(image, "r+b") as file:
        file.truncate(2 * SIZE)
    vhostd.rpc("bdev_uring_rescan", name="alone")
    name = disk(guest, "0:0:0:0")
    guest.run(f"""
        until [ "$(cat /sys/block/{name}/size)" = {2 * SIZE // 512} ]; do
            usleep 50000
        done
        printf '%-512s' 'the new end' |
            dd of=/dev/{name} bs=512 seek={2 * SIZE // 512 - 1} oflag=direct
    """)
    assert image.read_bytes()[-512:] == b"the new end".ljust(512)


def test_hotplug(vhostd, images, boot):
    socket = vhostd.serve_scsi({0: "alone"})
    guest = boot_scsi(boot, [socket], luns_of(0), "num_queues=2", cpus=2)
    check_plug(vhostd, guest)
    check_resize(vhostd, guest, images["alone"])
    check_unplug_under_load(vhostd, guest)


# ---- restarts ----

def test_restart_between_plugs(vhostd, images, socket, boot):
    """The daemon comes back with the same targets and data, as does the controller in the guest."""
    def plug() -> None:
        guest.qmp.command("chardev-add", id="char", backend={
            "type": "socket",
            "data": {"addr": {"type": "unix", "data": {"path": str(socket)}}, "server": False}})
        guest.qmp.command("device_add", driver=DRIVER, id="hot", chardev="char", bus="port1")

    guest = boot_scsi(boot, [], [], arguments=tuple(PORTS))
    for count, how in enumerate(("stop", "kill")):
        plug()
        wait_for_luns(guest, list(LUNS))
        for lun, name in LUNS.items():
            guest.run(f"""
                printf '%-512s' '{name} {count}' |
                    dd of=/dev/{disk(guest, lun)} bs=512 seek={count} oflag=direct 2>/dev/null
            """)
            found = images[name].read_bytes()[:(count + 1) * 512].split()
            assert found == f"{name} 0 {name} 1".encode().split()[:2 * (count + 1)]
        guest.qmp.command("device_del", id="hot")
        guest.qmp.wait_event("DEVICE_DELETED", device="hot")
        guest.qmp.command("chardev-remove", id="char")
        getattr(vhostd, how)()
        vhostd.start()


# Writes all disks and verifies them, with other data each time, until it is told to stop.
ROUNDS = """
    (
        round=0
        until [ -e /tmp/stop ]; do
            fio --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k --size=4m \\
                --randseed=$round --verify=crc32c --verify_fatal=1 --do_verify=1 {jobs} >/tmp/fio.log 2>&1 ||
                touch /tmp/stop /tmp/failed
            round=$((round + 1))
            echo $round >/tmp/rounds
        done
        touch /tmp/ended
    ) </dev/null >/dev/null 2>&1 &
"""
END = """
    touch /tmp/stop
    until [ -e /tmp/ended ]; do sleep 1; done
    if [ -e /tmp/failed ]; then cat /tmp/fio.log; dmesg | tail -30; exit 1; fi
    cat /tmp/rounds
"""


def completed(vhostd) -> int:
    """Reads and writes of all disks since the daemon started."""
    bdevs = vhostd.rpc("bdev_get_iostat")["bdevs"]
    return sum(bdev["num_read_ops"] + bdev["num_write_ops"] for bdev in bdevs)


@pytest.mark.parametrize("packed", ["off", "on"])
def test_kill_under_load(vhostd, socket, boot, packed):
    """The daemon is killed while the guest writes and verifies: the guest waits, and notices
    nothing."""
    if qemu_version() < RECONNECT_QEMU:
        pytest.skip("QEMU's vhost-user-scsi reconnects since version 8.2")
    guest = boot_scsi(boot, [socket], list(LUNS), f"num_queues={QUEUES},packed={packed}",
                      reconnect=True, cpus=QUEUES)
    has_packed = guest.run("cut -c35 /sys/bus/virtio/devices/virtio0/features")
    assert has_packed == ("1" if packed == "on" else "0")
    jobs = " ".join(f"--name={name} --filename=/dev/{disk(guest, lun)}"
                    for lun, name in LUNS.items())
    guest.run(ROUNDS.format(jobs=jobs))
    for _ in range(KILLS):
        wait_until(lambda: completed(vhostd) >= BUSY, "requests of the guest")
        vhostd.kill()
        vhostd.start()
    wait_until(lambda: completed(vhostd) >= BUSY, "requests of the guest")
    assert int(guest.run(END)) >= 1
    assert not guest.run("dmesg | grep -i 'sd[a-z].*error' || :")
