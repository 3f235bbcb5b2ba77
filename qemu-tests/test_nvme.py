# SPDX-License-Identifier: BSD-3-Clause
"""The whole path on a controller that is not ours: in a guest with an IOMMU the daemon drives
QEMU's NVMe controller through VFIO, and a front-end next to it checks what its disks do."""

import json
from pathlib import Path

import pytest

import daemon
from guest import Guest, machine_arguments
from guest_image import add_programs
from test_vfio import IOMMU

BIN = daemon.VHOSTD.parent
IN_GUEST = BIN.parent / "in-guest"
PROGRAMS = [BIN / "vhostd", BIN / "vhostctl", IN_GUEST / "blk_check", IN_GUEST / "nvme_identify",
            IN_GUEST / "nvme_attach_ns", Path("/usr/bin/setpriv")]
DISK_MIB = 16
# What comes before the daemon's name may be given in RUN.
START = """
mkdir -p /tmp/vhost /var/run
${RUN:-} vhostd -l 0 -S /tmp/vhost -r /tmp/vhost/rpc --state /tmp/state.json >>/tmp/log 2>&1 &
echo $! >/tmp/pid
until vhostctl -s /tmp/vhost/rpc framework_get_state >/dev/null 2>&1; do sleep 0.1; done
"""


class NvmeGuest(Guest):
    """The guest, with its daemon."""

    def rpc(self, method: str, **parameters):
        words = " ".join(f"--{name} {value}" for name, value in parameters.items())
        return json.loads(self.run(f"vhostctl -s /tmp/vhost/rpc --json {method} {words} || "
                                   "{ cat /tmp/log; exit 1; }"))

    def check(self, controller: str, mode: str) -> None:
        output, status = self.status(f"blk_check /tmp/vhost/{controller} {mode} 2>&1")
        assert status == 0 and output.strip().endswith("done"), output + self.run("cat /tmp/log")

    def devices(self) -> list[dict]:
        return json.loads(self.run("vhostctl nvme list --json"))

    def refusal(self, address: str) -> str:
        """Why the daemon does not attach it."""
        output, status = self.status("vhostctl -s /tmp/vhost/rpc bdev_nvme_attach_controller "
                                     f"--name nvme0 --trtype PCIe --traddr {address} 2>&1")
        assert status != 0, output
        return output

    def attach(self) -> list[str]:
        address = self.devices()[0]["address"]
        self.run(f"vhostctl nvme bind {address}")
        self.run(START)
        return self.rpc("bdev_nvme_attach_controller", name="nvme0", trtype="PCIe", traddr=address)

    def begin_load(self, controller: str) -> None:
        self.run(f"blk_check /tmp/vhost/{controller} load >/tmp/check 2>&1 &\n"
                 "until grep -q 'loading\\|FAILED' /tmp/check; do sleep 0.1; done")

    def end_load(self) -> None:
        """The disk is gone: each request has ended."""
        log = self.run("until grep -q '^done\\|FAILED' /tmp/check; do sleep 0.1; done; "
                       "cat /tmp/check")
        assert log.endswith("done"), log + self.run("cat /tmp/log")

    def wait_for_bdevs(self, *names: str) -> None:
        pattern = " ".join(names)
        self.run("for i in $(seq 150); do "
                 "found=$(vhostctl -s /tmp/vhost/rpc --json bdev_get_bdevs | "
                 "grep -o '\"name\": *\"nvme0n[0-9]*\"' | grep -o 'nvme0n[0-9]*' | xargs); "
                 f"[ \"$found\" = '{pattern}' ] && exit; sleep 0.1; done; "
                 "echo \"$found\"; cat /tmp/log; exit 1")

    def serve(self, bdev: str) -> str:
        """A vhost-user-blk controller of the same name."""
        self.rpc("vhost_create_blk_controller", ctrlr=bdev, dev_name=bdev)
        return bdev

    def stop_daemon(self) -> None:
        self.run("kill $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; "
                 "do sleep 0.1; done; ! grep -E 'ERROR|runtime error' /tmp/log")


@pytest.fixture
def boot(folder, linux_image, start_qemu):
    """A guest with an NVMe controller, and a namespace per list of properties."""
    def boot_guest(*namespaces: str, second: bool = False) -> NvmeGuest:
        """second: one more controller of the same subsystem, for the kernel's driver."""
        machine = [*machine_arguments(768), *IOMMU]
        if second:
            machine += ["-device", "nvme-subsys,id=pair",
                        "-device", "nvme,id=nvme0,bus=port0,serial=TRUTH-1,subsys=pair",
                        "-device", "pcie-root-port,id=port1,chassis=2",
                        "-device", "nvme,id=nvme1,bus=port1,serial=TRUTH-1,subsys=pair"]
        else:
            machine += ["-device", "nvme,id=nvme0,bus=port0,serial=TRUTH-1"]
        for number, properties in enumerate(namespaces, 1):
            image = folder / f"ns{number}.img"
            image.touch()
            with open(image, "r+b") as file:
                file.truncate(DISK_MIB << 20)
            machine += ["-drive", f"if=none,id=ns{number},format=raw,discard=unmap,file={image}",
                        "-device", f"nvme-ns,drive=ns{number},bus=nvme0,nsid={number},{properties}"]
        guest = start_qemu(NvmeGuest(folder, add_programs(linux_image, PROGRAMS, folder), machine,
                                     "intel_iommu=on"))
        guest.load("vfio")
        return guest

    return boot_guest


def idles(guest) -> bool:
    """With everything connected, less than 5 % of this slow CPU: 20 ticks of 10 ms in 4 s."""
    def ticks() -> int:
        return sum(map(int, guest.run("cut -d' ' -f14,15 /proc/$(cat /tmp/pid)/stat").split()))

    before = ticks()
    guest.run("sleep 4")
    return ticks() - before <= 20


def test_serves(boot):
    """Reads, writes, flush, write zeroes and discard; sleeps when idle; all again after a crash."""
    guest = boot("logical_block_size=512")
    name, = guest.attach()
    assert name == "nvme0n1"
    guest.check(guest.serve(name), "verify")
    health = guest.rpc("bdev_nvme_get_controller_health_info", name="nvme0")
    assert "QEMU" in health["model_number"] and health["serial_number"].strip() == "TRUTH-1"

    daemon.wait_until(lambda: idles(guest), "sleep of the idle daemon")
    assert guest.run("awk '/vfio-msix/ { n += $2 } END { print n }' /proc/interrupts") != "0"

    guest.run("kill -9 $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; "
              "do sleep 0.1; done")
    guest.run(START)
    assert [bdev["name"] for bdev in guest.rpc("bdev_get_bdevs")] == [name]
    guest.check(name, "verify")
    guest.rpc("bdev_nvme_reset_controller", name="nvme0")
    guest.check(name, "verify")
    guest.stop_daemon()


def test_namespaces(boot):
    """Two namespaces, of 4096-byte and of 512-byte blocks, at the same time."""
    guest = boot("logical_block_size=4096,physical_block_size=4096", "logical_block_size=512")
    names = guest.attach()
    assert names == ["nvme0n1", "nvme0n2"]
    sizes = {bdev["name"]: bdev["block_size"] for bdev in guest.rpc("bdev_get_bdevs")}
    assert sizes == {"nvme0n1": 4096, "nvme0n2": 512}
    for name in names:
        guest.serve(name)
    guest.run("for i in 1 2; do blk_check /tmp/vhost/nvme0n$i verify >/tmp/check$i 2>&1 & done; wait")
    for number in (1, 2):
        assert guest.run(f"tail -n 1 /tmp/check{number}") == "done", guest.run(
            f"cat /tmp/check{number} /tmp/log")
    guest.rpc("bdev_nvme_detach_controller", name="nvme0")
    assert guest.rpc("bdev_get_bdevs") == []
    guest.stop_daemon()


def test_hot_removal(boot):
    """The device is pulled out under load: each request ends, the daemon stays."""
    guest = boot("logical_block_size=512")
    name, = guest.attach()
    guest.begin_load(guest.serve(name))
    guest.qmp.command("device_del", id="nvme0")
    guest.end_load()
    guest.qmp.wait_event("DEVICE_DELETED", device="nvme0")
    assert guest.rpc("bdev_get_bdevs") == []
    guest.run("kill -0 $(cat /tmp/pid)")


def test_zeroes_and_tables(boot):
    """What was discarded reads as zeroes, as QEMU's DLFEAT says; memory comes and goes during DMA."""
    guest = boot("logical_block_size=512")
    name, = guest.attach()
    guest.serve(name)
    guest.check(name, "zeroes")
    guest.check(name, "tables")
    guest.stop_daemon()


def test_namespaces_come_and_go(boot):
    """QEMU 7.2 cannot plug namespaces; but another controller can attach and detach them."""
    guest = boot("logical_block_size=512,shared=on", "logical_block_size=512,detached=on",
                 second=True)
    assert guest.attach() == ["nvme0n1"]
    guest.run("until [ -e /dev/nvme1 ]; do sleep 0.1; done")
    guest.run("nvme_attach_ns /dev/nvme1 attach 2 0")
    guest.wait_for_bdevs("nvme0n1", "nvme0n2")
    guest.serve("nvme0n2")
    guest.check("nvme0n2", "verify")
    guest.begin_load("nvme0n2")
    guest.run("nvme_attach_ns /dev/nvme1 detach 2 0")
    guest.end_load()
    guest.wait_for_bdevs("nvme0n1")
    guest.run("nvme_attach_ns /dev/nvme1 attach 2 0")
    guest.wait_for_bdevs("nvme0n1", "nvme0n2")
    guest.run("nvme_attach_ns /dev/nvme1 detach 1 0; nvme_attach_ns /dev/nvme1 detach 2 0")
    guest.wait_for_bdevs()
    guest.run("nvme_attach_ns /dev/nvme1 attach 1 0")
    guest.wait_for_bdevs("nvme0n1")
    guest.serve("nvme0n1")
    guest.check("nvme0n1", "verify")
    guest.stop_daemon()


def test_refusals(boot):
    """What cannot be attached, and a sentence that helps."""
    guest = boot("logical_block_size=512")
    address = guest.devices()[0]["address"]
    guest.run(START)
    assert f"vhostctl nvme bind {address}" in guest.refusal(address)
    assert "no such PCI device" in guest.refusal("0000:7f:00.0")
    assert "its PCI class is 0x060100" in guest.refusal("0000:00:1f.0")
    guest.run(f"vhostctl nvme bind {address}")
    guest.run(f"nvme_identify {address} wait >/tmp/other 2>&1 & echo $! >/tmp/other.pid\n"
              "until grep -q 'waiting\\|FAILED' /tmp/other; do sleep 0.1; done")
    assert "used by another process" in guest.refusal(address)
    guest.run("kill $(cat /tmp/other.pid); while kill -0 $(cat /tmp/other.pid) 2>/dev/null; "
              "do sleep 0.1; done")
    assert guest.rpc("bdev_nvme_get_controllers") == []
    assert guest.rpc("bdev_nvme_attach_controller", name="nvme0", trtype="PCIe",
                     traddr=address) == ["nvme0n1"]


def test_without_root(boot):
    """A daemon that is not root needs the group's file and memory that may be locked."""
    guest = boot("logical_block_size=512")
    device, = guest.devices()
    address, group = device["address"], device["iommu_group"]
    # With its path: the shell has a lesser one of its own.
    as_user = "RUN='/bin/setpriv --reuid 1000 --clear-groups --no-new-privs'"
    guest.run("mkdir -p /tmp/vhost /tmp/1000; chown 1000 /tmp/vhost /tmp/1000; chmod 777 /tmp")
    guest.run(f"vhostctl nvme bind {address}")
    guest.run(f"ulimit -l 65536; {as_user}\n{START}")
    assert f"chown 1000 /dev/vfio/{group}" in guest.refusal(address)
    guest.run(f"chown 1000 /dev/vfio/{group}")
    assert guest.rpc("bdev_nvme_attach_controller", name="nvme0", trtype="PCIe",
                     traddr=address) == ["nvme0n1"]
    # Enough for the queues, but not for a guest's memory.
    guest.serve("nvme0n1")
    output, status = guest.status("blk_check /tmp/vhost/nvme0n1 verify 2>&1")
    assert status != 0, output
    assert "RLIMIT_MEMLOCK is 65536 KiB" in guest.run("cat /tmp/log")
    guest.run("kill -9 $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; "
              "do sleep 0.1; done; >/tmp/log")
    guest.run(f"ulimit -l unlimited; {as_user}\n{START}")
    guest.check("nvme0n1", "verify")
    guest.stop_daemon()
