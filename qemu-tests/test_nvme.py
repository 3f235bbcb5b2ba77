# SPDX-License-Identifier: BSD-3-Clause
"""The whole path on a controller that is not ours: in a guest with an IOMMU the daemon drives
QEMU's NVMe controller through VFIO, and a front-end next to it checks what its disks do."""

import json

import pytest

import daemon
from guest import Guest, machine_arguments
from guest_image import add_programs
from test_vfio import IOMMU, LOAD

BIN = daemon.VHOSTD.parent
PROGRAMS = [BIN / "vhostd", BIN / "vhostctl", BIN.parent / "in-guest" / "blk_check"]
DISK_MIB = 16
START = """
mkdir -p /tmp/vhost /var/run
vhostd -l 0 -S /tmp/vhost -r /tmp/vhost/rpc --state /tmp/state.json >>/tmp/log 2>&1 &
echo $! >/tmp/pid
until vhostctl -s /tmp/vhost/rpc framework_get_state >/dev/null 2>&1; do sleep 0.1; done
"""
DEADLINE = 90


class NvmeGuest(Guest):
    """The guest, with its daemon."""

    def rpc(self, method: str, **parameters):
        words = " ".join(f"--{name} {value}" for name, value in parameters.items())
        return json.loads(self.run(f"vhostctl -s /tmp/vhost/rpc --json {method} {words} || "
                                   "{ cat /tmp/log; exit 1; }"))

    def check(self, controller: str, mode: str) -> None:
        output, status = self.status(f"blk_check /tmp/vhost/{controller} {mode} 2>&1", DEADLINE)
        assert status == 0 and output.strip().endswith("done"), output + self.run("cat /tmp/log")

    def attach(self) -> list[str]:
        found, = json.loads(self.run("vhostctl nvme list --json"))
        self.run(f"vhostctl nvme bind {found['address']}")
        self.run(START)
        return self.rpc("bdev_nvme_attach_controller", name="nvme0", trtype="PCIe",
                        traddr=found["address"])

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
    def boot_guest(*namespaces: str) -> NvmeGuest:
        machine = [*machine_arguments(768), *IOMMU,
                   "-device", "nvme,id=nvme0,bus=port0,serial=TRUTH-1"]
        for number, properties in enumerate(namespaces, 1):
            image = folder / f"ns{number}.img"
            image.touch()
            with open(image, "r+b") as file:
                file.truncate(DISK_MIB << 20)
            machine += ["-drive", f"if=none,id=ns{number},format=raw,discard=unmap,file={image}",
                        "-device", f"nvme-ns,drive=ns{number},bus=nvme0,nsid={number},{properties}"]
        guest = start_qemu(NvmeGuest(folder, add_programs(linux_image, PROGRAMS, folder), machine,
                                     "intel_iommu=on"))
        guest.run(LOAD)
        return guest

    return boot_guest


def test_serves(boot):
    """Reads, writes, flush, write zeroes and discard; sleeps when idle; all again after a crash."""
    guest = boot("logical_block_size=512")
    name, = guest.attach()
    assert name == "nvme0n1"
    guest.check(guest.serve(name), "verify")
    health = guest.rpc("bdev_nvme_get_controller_health_info", name="nvme0")
    assert "QEMU" in health["model_number"] and health["serial_number"].strip() == "TRUTH-1"

    # Idle, it sleeps: with everything connected, less than 5 % of this slow CPU.
    guest.run("cut -d' ' -f14,15 /proc/$(cat /tmp/pid)/stat >/tmp/before; sleep 4; "
              "cut -d' ' -f14,15 /proc/$(cat /tmp/pid)/stat >/tmp/after")
    before, after = (sum(map(int, guest.run(f"cat /tmp/{when}").split()))
                     for when in ("before", "after"))
    assert after - before <= 20, f"{after - before} ticks of 10 ms in 4 s"
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
    guest.run("for i in 1 2; do blk_check /tmp/vhost/nvme0n$i verify >/tmp/check$i 2>&1 & done; wait",
              DEADLINE)
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
    controller = guest.serve(name)
    guest.run(f"blk_check /tmp/vhost/{controller} load >/tmp/check 2>&1 &\n"
              "until grep -q 'loading\\|FAILED' /tmp/check; do sleep 0.1; done")
    guest.qmp.command("device_del", id="nvme0")
    log = guest.run("until grep -q '^done\\|FAILED' /tmp/check; do sleep 0.1; done; cat /tmp/check",
                    DEADLINE)
    assert log.endswith("done"), log + guest.run("cat /tmp/log")
    guest.qmp.wait_event("DEVICE_DELETED", device="nvme0")
    assert guest.rpc("bdev_get_bdevs") == []
    guest.run("kill -0 $(cat /tmp/pid)")
