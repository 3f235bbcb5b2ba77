# SPDX-License-Identifier: BSD-3-Clause
"""vhostctl nvme: which NVMe devices there are, who uses them, and giving them to programs and back."""

import json
import os
import threading

import pytest
from harness import vhostctl
from test_vhostctl import FAILED, USAGE, rows

DISK, OTHER, NIC = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"
GROUP_OF = {DISK: "7", OTHER: "8", NIC: "9"}


class Machine:
    """A folder with the parts of /sys, /proc and /dev that count, and a kernel that binds drivers."""

    def __init__(self, root) -> None:
        self.root = root
        self.devices = root / "sys/bus/pci/devices"
        self.drivers = root / "sys/bus/pci/drivers"
        self.native = {DISK: "nvme", OTHER: "nvme", NIC: "e1000e"}
        self.refuses = False            # vfio-pci takes no device
        self.log: list[str] = []
        for driver in ("nvme", "vfio-pci", "e1000e"):
            (self.drivers / driver).mkdir(parents=True)
        (root / "proc/self").mkdir(parents=True)
        (root / "sys/class/block").mkdir(parents=True)
        self.write("proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n")
        self.write("proc/swaps", "Filename Type Size Used Priority\n")
        self.add(DISK, "0x010802")
        self.add(OTHER, "0x010802")
        self.add(NIC, "0x020000")
        self.add_disk(DISK, "nvme0", "nvme0n1", "259:0", partitions={"nvme0n1p1": "259:1"})
        self.write(f"sys/bus/pci/devices/{DISK}/nvme/nvme0/model", "Fast Disk 9000      \n")
        os.mkfifo(root / "sys/bus/pci/drivers_probe")
        self.stopping = False
        self.thread = threading.Thread(target=self.probe)
        self.thread.start()

    def write(self, file: str, text: str) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def add(self, address: str, device_class: str) -> None:
        folder = self.devices / address
        folder.mkdir(parents=True)
        for name, text in (("class", device_class), ("vendor", "0x1b36"), ("device", "0x0010"),
                           ("driver_override", "")):
            (folder / name).write_text(f"{text}\n")
        group = self.root / "sys/kernel/iommu_groups" / GROUP_OF[address]
        (group / "devices" / address).mkdir(parents=True)
        (folder / "iommu_group").symlink_to(group)
        self.bind(address, self.native[address])

    def add_disk(self, address, controller, disk, number, partitions=(), owner=None) -> None:
        (self.devices / address / "nvme" / controller).mkdir(parents=True, exist_ok=True)
        folder = self.root / "sys/class/block" / disk
        (folder / "holders").mkdir(parents=True)
        (folder / "dev").write_text(f"{number}\n")
        (folder / "device").symlink_to(f"../../{owner or controller}")
        for name, partition_number in dict(partitions).items():
            (folder / name).mkdir()
            (folder / name / "partition").write_text("1\n")
            (folder / name / "holders").mkdir()
            (folder / name / "dev").write_text(f"{partition_number}\n")
            (self.root / "sys/class/block" / name).symlink_to(folder / name)

    def driver(self, address: str) -> str | None:
        link = self.devices / address / "driver"
        return link.readlink().name if link.is_symlink() else None

    def bind(self, address: str, driver: str | None) -> None:
        link = self.devices / address / "driver"
        link.unlink(missing_ok=True)
        if driver:
            link.symlink_to(self.drivers / driver)

    def probe(self) -> None:
        """The kernel: unbinding is seen late here, when drivers are probed; that makes no difference."""
        while True:
            address = (self.root / "sys/bus/pci/drivers_probe").read_text().strip()
            if self.stopping:
                return
            for driver in self.drivers.iterdir():
                unbind = driver / "unbind"
                if unbind.exists() and unbind.read_text():
                    self.log.append(f"{driver.name} gives {unbind.read_text()} back")
                    unbind.write_text("")
            # Each write is the whole value; here it leaves the rest of a longer one behind it.
            override = (self.devices / address / "driver_override").read_text().split("\n")[0]
            self.log.append(f"probe {address} {override}".strip())
            wanted = override or self.native[address]
            self.bind(address, None if self.refuses and wanted == "vfio-pci" else wanted)

    def stop(self) -> None:
        self.stopping = True
        self.write("sys/bus/pci/drivers_probe", "")
        self.thread.join()

    def ctl(self, *args: str, status: int = 0):
        return vhostctl("nvme", "--root", str(self.root), *args, status=status)


@pytest.fixture
def machine(folder):
    instance = Machine(folder / "machine")
    for driver in ("nvme", "vfio-pci"):
        (instance.drivers / driver / "unbind").write_text("")
    yield instance
    instance.stop()


def refused(machine, *args: str) -> str:
    before = {address: machine.driver(address) for address in GROUP_OF}
    text = machine.ctl(*args, status=FAILED).stderr
    assert {address: machine.driver(address) for address in GROUP_OF} == before
    return text


# ---- list ----

def test_list(machine):
    table = rows(machine.ctl("list").stdout)
    assert [row["address"] for row in table] == [DISK, OTHER]
    devices = json.loads(vhostctl("nvme", "--root", str(machine.root), "list", "--json").stdout)
    assert devices == [
        {"address": DISK, "model": "Fast Disk 9000", "driver": "nvme", "iommu_group": "7", "uses": []},
        {"address": OTHER, "model": "0x1b36:0x0010", "driver": "nvme", "iommu_group": "8", "uses": []}]


def test_list_of_nothing(folder):
    done = vhostctl("nvme", "--root", str(folder), "list", status=FAILED)
    assert "sys/bus/pci/devices" in done.stderr


def uses(machine, address: str = DISK) -> list[str]:
    devices = json.loads(vhostctl("nvme", "--root", str(machine.root), "list", "--json").stdout)
    return next(device["uses"] for device in devices if device["address"] == address)


def mount(number: str, target: str, source: str) -> str:
    return f"36 35 {number} / {target} rw,noatime shared:1 - ext4 {source} rw\n"


@pytest.mark.parametrize("line, found", [
    (mount("259:1", "/home", "/dev/nvme0n1p1"), "nvme0n1p1 is mounted on /home"),
    (mount("259:0", "/mnt", "/dev/root"), "nvme0n1 is mounted on /mnt"),
    (mount("0:44", "/data", "/dev/nvme0n1p1"), "nvme0n1p1 is mounted on /data"),     # btrfs
    (mount("259:11", "/x", "/dev/nvme0n1p11"), None),
    ("rubbish\n", None)])
def test_mounted(machine, line, found):
    machine.write("proc/self/mountinfo", line)
    assert uses(machine) == ([found] if found else [])
    assert uses(machine, OTHER) == []
    if found:
        assert found in refused(machine, "bind", DISK)
        assert machine.log == []


def test_swap(machine):
    machine.write("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p1 partition 9 0 -2\n")
    assert uses(machine) == ["nvme0n1p1 is swap"]
    assert "is swap" in refused(machine, "bind", DISK)


def test_holders(machine):
    for holder in ("nvme0n1/holders/md0", "nvme0n1/nvme0n1p1/holders/dm-3"):
        (machine.root / "sys/class/block" / holder).mkdir()
    assert sorted(uses(machine)) == ["nvme0n1 is held by md0", "nvme0n1p1 is held by dm-3"]
    assert "…" in refused(machine, "bind", DISK)


def test_subsystem(machine):
    """With multipath the disk is the subsystem's, and the subsystem has the controller."""
    machine.add_disk(OTHER, "nvme1", "nvme1n1", "259:9", owner="nvme-subsys1")
    machine.write("proc/self/mountinfo", mount("259:9", "/srv", "/dev/nvme1n1"))
    assert uses(machine, OTHER) == []
    (machine.root / "sys/class/nvme-subsystem/nvme-subsys1/nvme1").mkdir(parents=True)
    assert uses(machine, OTHER) == ["nvme1n1 is mounted on /srv"]
    assert uses(machine) == []


# ---- bind, unbind ----

def test_bind_and_unbind(machine):
    done = machine.ctl("bind", "01:00.0")
    assert machine.driver(DISK) == "vfio-pci" and machine.driver(OTHER) == "nvme"
    assert done.stdout == f"{DISK} is bound to vfio-pci; who shall use it needs /dev/vfio/7\n"
    assert machine.log == [f"nvme gives {DISK} back", f"probe {DISK} vfio-pci"]
    assert "already" in machine.ctl("bind", DISK).stdout
    machine.log.clear()
    assert machine.ctl("unbind", DISK).stdout == f"{DISK} is bound to nvme\n"
    assert machine.driver(DISK) == "nvme"
    assert machine.log == [f"vfio-pci gives {DISK} back", f"probe {DISK}"]
    assert "bound to nvme, not to vfio-pci" in refused(machine, "unbind", DISK)


def test_device_without_driver(machine):
    machine.bind(DISK, None)
    machine.ctl("bind", DISK)
    assert machine.log == [f"probe {DISK} vfio-pci"]
    assert machine.driver(DISK) == "vfio-pci"


def test_refused_by_the_driver(machine):
    """What cannot be bound is given back."""
    machine.refuses = True
    done = machine.ctl("bind", DISK, status=FAILED)
    assert "does not take it" in done.stderr
    assert machine.driver(DISK) == "nvme"


def test_other_devices(machine):
    assert "is no NVMe device: its PCI class is 0x020000" in refused(machine, "bind", NIC)
    assert "is no NVMe device" in refused(machine, "unbind", NIC)
    assert "there is no such PCI device" in refused(machine, "bind", "0000:09:00.0")
    assert "there is no such PCI device" in refused(machine, "unbind", "0000:09:00.0")


def test_group(machine):
    """Devices of the same group in other hands, but for bridges."""
    group = machine.root / "sys/kernel/iommu_groups/7/devices"
    (group / NIC).mkdir()
    assert f"{NIC} (e1000e)" in refused(machine, "bind", DISK)
    machine.bind(NIC, "pcieport")
    machine.ctl("bind", DISK)


def test_no_iommu(machine):
    (machine.devices / DISK / "iommu_group").unlink()
    assert "intel_iommu=on" in refused(machine, "bind", DISK)


def test_no_vfio(machine):
    (machine.drivers / "vfio-pci" / "unbind").unlink()
    (machine.drivers / "vfio-pci").rmdir()
    assert "modprobe vfio-pci" in refused(machine, "bind", DISK)


def test_missing_files(machine):
    (machine.devices / DISK / "driver_override").unlink()
    assert "No such file" in refused(machine, "bind", DISK)


@pytest.mark.parametrize("args", [
    [], ["list", "all"], ["bind"], ["bind", "nvme0"], ["bind", DISK, OTHER], ["unbind"],
    ["unbind", "../../etc"], ["reset", DISK], ["--root"]])
def test_usage(args):
    done = vhostctl("nvme", *args, status=USAGE)
    assert done.stdout == "" and "usage:" in done.stderr
