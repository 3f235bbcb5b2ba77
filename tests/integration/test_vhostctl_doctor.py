# SPDX-License-Identifier: BSD-3-Clause
"""vhostctl doctor: each thing that hurts is seen, on machines that are folders."""

import json
import os

import pytest
from fake_daemon import FakeDaemon
from harness import vhostctl
from test_vhostctl import FAILED, USAGE

NVME = "0000:01:00.0"


class Machine:
    """A folder with the parts of /sys and /proc that count; nothing there hurts."""

    def __init__(self, root, daemon) -> None:
        self.root = root
        self.daemon = daemon
        self.pid = daemon.rpc("framework_get_reactors")["pid"]
        self.write("proc/sys/kernel/osrelease", "6.1.0-28-amd64\n")
        self.write("proc/sys/kernel/io_uring_disabled", "0\n")
        self.write("proc/sys/kernel/io_uring_group", "-1\n")
        self.memory()
        self.mount_shm("rw,nosuid,nodev")
        self.limits()
        self.write("sys/kernel/mm/ksm/run", "0\n")
        self.hugepages(0, 0)
        self.write("sys/devices/system/cpu/isolated", "\n")
        self.add_nvme()
        (root / "sys/kernel/iommu_groups/7").mkdir(parents=True)
        (root / "sys/bus/pci/drivers/vfio-pci").mkdir(parents=True)
        for cpu in range(2):
            self.governor(cpu, "performance")

    def write(self, file: str, text: str) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def memory(self, swap=0, swap_free=0) -> None:
        self.write("proc/meminfo", f"MemTotal:       {32 << 20} kB\nMemFree:  1 kB\n"
                   f"SwapTotal:  {swap} kB\nSwapFree:  {swap_free} kB\n")

    def mount_shm(self, options: str) -> None:
        self.write("proc/mounts", "proc /proc proc rw 0 0\n"
                   f"tmpfs /dev/shm tmpfs {options} 0 0\n")

    def limits(self, files="65536", memory="unlimited") -> None:
        self.write(f"proc/{self.pid}/limits",
                   "Limit                     Soft Limit           Hard Limit           Units     \n"
                   f"Max open files            {files:<20} {files:<20} files     \n"
                   f"Max locked memory         {memory:<20} {memory:<20} bytes     \n")

    def hugepages(self, reserved: int, free: int) -> None:
        folder = "sys/kernel/mm/hugepages/hugepages-2048kB"
        self.write(f"{folder}/nr_hugepages", f"{reserved}\n")
        self.write(f"{folder}/free_hugepages", f"{free}\n")

    def governor(self, cpu: int, governor: str, driver="acpi-cpufreq") -> None:
        folder = f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        self.write(f"{folder}/scaling_governor", f"{governor}\n")
        self.write(f"{folder}/scaling_driver", f"{driver}\n")

    def add_nvme(self) -> None:
        self.write(f"sys/bus/pci/devices/{NVME}/class", "0x010802\n")

    def remove(self, folder: str) -> None:
        (self.root / folder).rmdir()

    def examine(self, status: int) -> dict[str, dict]:
        done = self.daemon.ctl("doctor", "--root", str(self.root), "--json", status=status)
        return {finding["check"]: finding for finding in json.loads(done.stdout)}


@pytest.fixture
def machine(folder, vhostd):
    return Machine(folder / "machine", vhostd)


def test_nothing_hurts(machine):
    findings = machine.examine(0)
    assert len(findings) >= 14
    assert {finding["state"] for finding in findings.values()} == {"ok"}
    assert all(finding["meaning"] and finding["mend"] for finding in findings.values())
    text = machine.daemon.ctl("doctor", "--root", str(machine.root)).stdout.splitlines()
    assert len(text) == len(findings) and all(line.startswith("ok ") for line in text)


# What is changed, and what is said then: a check, its state, and a part of the finding.
CASES = {
    "kernel-old": (lambda m: m.write("proc/sys/kernel/osrelease", "5.10.0-30-amd64\n"),
                   "kernel", "bad", "5.10.0"),
    "kernel-untested": (lambda m: m.write("proc/sys/kernel/osrelease", "5.15.0\n"),
                        "kernel", "note", "5.15"),
    "kernel-unknown": (lambda m: m.write("proc/sys/kernel/osrelease", "\x1b[2J\xff\n"),
                       "kernel", "note", "?[2J"),
    "io_uring-off": (lambda m: m.write("proc/sys/kernel/io_uring_disabled", "2\n"),
                     "io_uring", "bad", "switched off"),
    "io_uring-group": (lambda m: m.write("proc/sys/kernel/io_uring_disabled", "1\n"),
                       "io_uring", "note", "group -1"),
    "shm-tiny": (lambda m: m.mount_shm("rw,nosuid,size=65536k"), "shared memory", "bad", "0.06 GiB"),
    "shm-small": (lambda m: m.mount_shm("rw,size=2g,mode=1777"), "shared memory", "note", "2.00 GiB"),
    "shm-percent": (lambda m: m.mount_shm("rw,size=10%"), "shared memory", "note", "3.20 GiB"),
    "shm-none": (lambda m: m.write("proc/mounts", "proc /proc proc rw 0 0\n"),
                 "shared memory", "note", "no tmpfs"),
    "files": (lambda m: m.limits(files="1024"), "open files", "bad", "1024, of the daemon"),
    "memlock": (lambda m: m.limits(memory="8388608"), "memory lock", "bad", "8192 KiB"),
    "iommu": (lambda m: m.remove("sys/kernel/iommu_groups/7"), "iommu", "bad", "1 NVMe"),
    "vfio": (lambda m: m.remove("sys/bus/pci/drivers/vfio-pci"), "vfio-pci", "bad", "not loaded"),
    "governor-powersave": (lambda m: m.governor(1, "powersave"), "governor", "bad",
                           "powersave on 1 of 2"),
    "governor-pstate": (lambda m: m.governor(1, "powersave", "intel_pstate"), "governor", "note",
                        "powersave on 1 of 2"),
    "governor-other": (lambda m: m.governor(0, "schedutil"), "governor", "note", "schedutil"),
    "hugepages-unused": (lambda m: m.hugepages(4096, 4096), "hugepages", "bad",
                         "8.00 GiB reserved, 8.00 GiB of it unused"),
    "hugepages-some": (lambda m: m.hugepages(4096, 1024), "hugepages", "note", "2.00 GiB of it"),
    "hugepages-all": (lambda m: m.hugepages(4096, 0), "hugepages", "ok", "0.00 GiB of it"),
    "swap": (lambda m: m.memory(8 << 20, 8 << 20), "swap", "note", "0.0 of 8.0"),
    "swap-used": (lambda m: m.memory(8 << 20, 4 << 20), "swap", "bad", "4.0 of 8.0"),
    "ksm": (lambda m: m.write("sys/kernel/mm/ksm/run", "1\n"), "ksm", "note", "on"),
    "isolated-unused": (lambda m: m.write("sys/devices/system/cpu/isolated", "2-3\n"),
                        "isolated cores", "note", "2-3, and no reactor"),
    "isolated-used": (lambda m: m.write("sys/devices/system/cpu/isolated", "0,2\n"),
                      "isolated cores", "ok", "reactors run on 1 of them"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_hurts(machine, case):
    change, check, state, text = CASES[case]
    change(machine)
    findings = machine.examine(FAILED if state == "bad" else 0)
    assert findings[check]["state"] == state and text in findings[check]["finding"]
    others = {name: finding["state"] for name, finding in findings.items() if name != check}
    # Without an IOMMU nothing can be done with NVMe devices anyway.
    assert set(others.values()) == {"ok"}


def test_without_nvme_devices_nothing_of_theirs_is_bad(machine):
    machine.write(f"sys/bus/pci/devices/{NVME}/class", "0x020000\n")
    machine.remove("sys/kernel/iommu_groups/7")
    machine.remove("sys/bus/pci/drivers/vfio-pci")
    machine.limits(memory="65536")
    findings = machine.examine(0)
    assert {findings[name]["state"] for name in ("iommu", "vfio-pci", "memory lock")} == {"note"}


def test_the_machines_own_nvme_device_needs_nothing(machine):
    """It has the root file system on it, and is for no guest."""
    machine.remove("sys/kernel/iommu_groups/7")
    machine.remove("sys/bus/pci/drivers/vfio-pci")
    assert machine.examine(FAILED)["iommu"]["state"] == "bad"
    (machine.root / f"sys/bus/pci/devices/{NVME}/nvme/nvme0").mkdir(parents=True)
    machine.write("sys/class/block/nvme0n1/dev", "259:0\n")
    (machine.root / "sys/class/block/nvme0n1/device").symlink_to("../../nvme0")
    machine.write("proc/self/mountinfo", "36 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n")
    assert machine.examine(0)["iommu"]["state"] == "note"
    # Given to programs it is again.
    (machine.root / f"sys/bus/pci/devices/{NVME}/driver").symlink_to("../../drivers/vfio-pci")
    assert machine.examine(FAILED)["iommu"]["state"] == "bad"


def test_reactors_that_poll_want_cores_of_their_own(machine):
    machine.daemon.rpc("framework_set_mode", core=0, mode="poll")
    assert machine.examine(0)["isolated cores"]["state"] == "note"


def test_permissions_of_sockets(machine, folder):
    daemon = machine.daemon
    daemon.rpc("bdev_null_create", name="n", num_blocks=8, block_size=512)
    daemon.rpc("vhost_create_blk_controller", ctrlr="c", dev_name="n")
    finding = machine.examine(0)["sockets"]
    assert finding["state"] == "note" and "only its owner" in finding["finding"]
    folder.chmod(0o750)
    (folder / "c").chmod(0o660)
    assert machine.examine(0)["sockets"]["state"] == "ok"
    (folder / "c").chmod(0o666)
    assert machine.examine(0)["sockets"]["state"] == "ok"       # nobody else gets to it
    folder.chmod(0o755)
    assert "everybody may attach" in machine.examine(FAILED)["sockets"]["finding"]
    (folder / "c").chmod(0o660)
    folder.chmod(0o777)
    assert "everybody may put" in machine.examine(FAILED)["sockets"]["finding"]
    folder.chmod(0o1777)
    assert machine.examine(0)["sockets"]["state"] == "ok"
    daemon.socket.chmod(0o666)
    assert "everybody may connect" in machine.examine(FAILED)["daemon"]["finding"]
    daemon.socket.chmod(0o600)
    (folder / "c").unlink()
    assert "No such file" in machine.examine(FAILED)["sockets"]["finding"]
    folder.chmod(0o700)


def test_no_daemon(machine):
    machine.daemon.stop()
    machine.write("proc/self/limits", "Max open files            1024   1024   files\n"
                  "Max locked memory         65536   65536   bytes\n")
    findings = machine.examine(FAILED)
    assert findings["daemon"]["state"] == "bad" and "does vhostd run?" in findings["daemon"]["finding"]
    # These may be others than the daemon will have.
    assert findings["open files"]["state"] == "ok" and findings["memory lock"]["state"] == "note"


def test_limits_are_the_daemons_own(machine, folder):
    """In a container it has a number that is somebody else's here."""
    answers = [{"jsonrpc": "2.0", "id": 1, "result": result} for result in ({"pid": machine.pid, "reactors": []}, [])]
    daemon = FakeDaemon(folder / "fake.sock", lambda _: json.dumps(answers).encode())
    machine.limits(files="1024")
    machine.pid = os.getpid()                       # that of who listens
    machine.limits(files="4096")
    done = vhostctl("-s", str(daemon.path), "doctor", "--root", str(machine.root), "--json")
    daemon.stop()
    finding, = (finding for finding in json.loads(done.stdout) if finding["check"] == "open files")
    assert "4096, of the daemon" in finding["finding"]


def test_an_empty_machine(machine, folder):
    """Nothing of what is looked at is there: a container, perhaps."""
    (folder / "empty").mkdir()
    done = machine.daemon.ctl("doctor", "--root", str(folder / "empty"), "--json")
    assert {finding["state"] for finding in json.loads(done.stdout)} == {"ok", "note"}


def test_this_machine():
    """Whatever it is like: the table says what to do about each thing that is not well."""
    done = vhostctl("-s", "/nonexistent/rpc.sock", "doctor", status=FAILED)
    assert "bad   daemon" in done.stdout and "→ start vhostd" in done.stdout
    assert done.stderr.startswith("vhostctl: doctor: ")


@pytest.mark.parametrize("args", [["now"], ["--root"], ["--roots", "/"]])
def test_usage(args):
    vhostctl("doctor", *args, status=USAGE)
