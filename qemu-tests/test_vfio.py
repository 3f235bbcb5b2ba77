# SPDX-License-Identifier: BSD-3-Clause
"""VFIO for real: in a guest with an IOMMU, a program of ours drives QEMU's NVMe controller."""

import json
from pathlib import Path

import pytest

import daemon
from guest import Guest, machine_arguments
from guest_image import add_programs

BIN = daemon.VHOSTD.parent
PROGRAMS = [BIN.parent / "in-guest" / "nvme_identify", BIN.parent / "in-guest" / "nvme_attach",
            BIN / "vhostctl", Path("/usr/bin/setpriv")]
# The IOMMU first: it must be there when the others come. The port is for device_del.
IOMMU = ["-device", "intel-iommu,intremap=on", "-device", "pcie-root-port,id=port0,chassis=1"]


@pytest.fixture
def boot_nvme(folder, linux_image, start_qemu):
    """A guest with an NVMe disk of 64 MiB, and the modules of VFIO loaded."""
    def boot_guest(*arguments: str, kernel_arguments: str = "intel_iommu=on") -> Guest:
        image = folder / "nvme.img"
        image.write_bytes(b"disk of the guest".ljust(512, b"\0"))
        with open(image, "r+b") as file:
            file.truncate(64 << 20)
        # vhostctl comes with the libraries of libvirt.
        machine = [*machine_arguments(memory_mib=768), *IOMMU, *arguments]
        machine += ["-drive", f"if=none,id=disk,format=raw,file={image}",
                    "-device", "nvme,id=nvme0,bus=port0,drive=disk,serial=VFIO-1"]
        guest = start_qemu(Guest(folder, add_programs(linux_image, PROGRAMS, folder), machine,
                                 kernel_arguments))
        guest.load("vfio")
        return guest

    return boot_guest


def device(guest: Guest) -> dict:
    """What vhostctl says about the only NVMe device."""
    found, = json.loads(guest.run("vhostctl nvme list --json"))
    return found


def test_identify(boot_nvme):
    """From the kernel's driver to ours and back: registers, DMA, interrupts, reset."""
    guest = boot_nvme()
    found = device(guest)
    address = found["address"]
    assert found["driver"] == "nvme" and found["model"] == "QEMU NVMe Ctrl"
    assert found["iommu_group"] and found["uses"] == []
    refused = guest.status(f"nvme_identify {address} 2>&1")
    assert refused[1] == 1 and f"vhostctl nvme bind {address}" in refused[0]

    assert "is bound to vfio-pci" in guest.run(f"vhostctl nvme bind {address}")
    assert device(guest)["driver"] == "vfio-pci"
    lines = guest.run(f"nvme_identify {address}").splitlines()
    for how in ("polled", "interrupt", "mapped", "after reset"):
        line, = [line for line in lines if line.startswith(f"{how}: ")]
        assert line.split()[-6:] == ["serial", "VFIO-1", "model", "QEMU", "NVMe", "Ctrl"]
    assert "mappings 3" in lines and "reset 0 CC 0" in lines and lines[-1] == "done"
    guest.run(f"nvme_identify {address}")       # nothing was left behind

    assert "is bound to nvme" in guest.run(f"vhostctl nvme unbind {address}")
    assert guest.run("until [ -e /dev/nvme0n1 ]; do sleep 0.1; done; "
                     "head -c 17 /dev/nvme0n1") == "disk of the guest"


def test_device_in_use(boot_nvme):
    guest = boot_nvme()
    address = device(guest)["address"]
    guest.run("mke2fs -q /dev/nvme0n1 && mkdir /tmp/mnt && mount -t ext4 /dev/nvme0n1 /tmp/mnt"
              " || mount -t ext2 /dev/nvme0n1 /tmp/mnt")
    assert device(guest)["uses"] == ["nvme0n1 is mounted on /tmp/mnt"]
    text, status = guest.status(f"vhostctl nvme bind {address} 2>&1")
    assert status == 1 and "nvme0n1 is mounted on /tmp/mnt" in text
    assert device(guest)["driver"] == "nvme"
    guest.run("umount /tmp/mnt")
    guest.run(f"vhostctl nvme bind {address}")


def test_one_user(boot_nvme):
    """While a program has the device, others are told so, and it is not unbound."""
    guest = boot_nvme()
    address = device(guest)["address"]
    guest.run(f"vhostctl nvme bind {address}")
    guest.run(f"nvme_identify {address} wait >/tmp/log 2>&1 &\n"
              "until grep -q 'waiting\\|FAILED' /tmp/log; do sleep 0.1; done")
    text, status = guest.status(f"nvme_identify {address}")
    assert status == 1 and "used by another process" in text
    assert "a program has it" in device(guest)["uses"][0]
    text, status = guest.status(f"vhostctl nvme unbind {address} 2>&1")
    assert status == 1 and "a program has it" in text


def test_limits(boot_nvme):
    """Without permission, and with too little memory that may be locked: a sentence that helps."""
    guest = boot_nvme()
    address = device(guest)["address"]
    guest.run(f"vhostctl nvme bind {address}")
    group = device(guest)["iommu_group"]
    # With its path: the shell has a lesser one of its own.
    as_user = "/bin/setpriv --reuid 1000 --clear-groups --no-new-privs"
    text, status = guest.status(f"{as_user} nvme_identify {address}")
    assert status == 1 and "no permission" in text and f"chown 1000 /dev/vfio/{group}" in text
    guest.run(f"chown 1000 /dev/vfio/{group}")
    text, status = guest.status(f"ulimit -l 16384; {as_user} nvme_identify {address}")
    assert status == 1 and "polled: " in text
    assert "RLIMIT_MEMLOCK is 16384 KiB" in text and "LimitMEMLOCK=infinity" in text
    # All that it takes, and no root.
    assert guest.run(f"ulimit -l 65536; {as_user} nvme_identify {address}").endswith("done")


def test_hot_removal(boot_nvme):
    guest = boot_nvme()
    address = device(guest)["address"]
    guest.run(f"vhostctl nvme bind {address}")
    guest.run(f"nvme_identify {address} gone >/tmp/log 2>&1 &\n"
              "until grep -q 'waiting\\|FAILED' /tmp/log; do sleep 0.1; done")
    guest.qmp.command("device_del", id="nvme0")
    log = guest.run("until grep -q '^done\\|FAILED' /tmp/log; do sleep 0.1; done; cat /tmp/log")
    # The guest's kernel asks for it: until it is closed it works.
    assert log.splitlines()[-3:] == ["wanted back", "CSTS 1", "done"]
    guest.qmp.wait_event("DEVICE_DELETED", device="nvme0")
    assert json.loads(guest.run("vhostctl nvme list --json")) == []


def test_driver(boot_nvme):
    """The driver: polled, by interrupt, after a reset, and until the device is taken away."""
    guest = boot_nvme()
    address = device(guest)["address"]
    guest.run(f"vhostctl nvme bind {address}")
    guest.run(f"nvme_attach {address} gone >/tmp/log 2>&1 &\n"
              "until grep -q 'waiting\\|FAILED' /tmp/log; do sleep 0.1; done")
    guest.qmp.command("device_del", id="nvme0")
    log = guest.run("until grep -q '^done\\|FAILED' /tmp/log; do sleep 0.1; done; cat /tmp/log")
    lines = log.splitlines()
    assert len([line for line in lines
                if line.startswith("model QEMU NVMe Ctrl serial VFIO-1 ")]) == 2
    assert lines.count("namespace 1: 131072 blocks of 512") == 2
    for how, count in (("polled", 1), ("interrupt", 1), ("after reset", 2)):
        assert lines.count(f"{how}: rc 0 data disk of the guest") == count
    assert "gone: rc -19 data " in lines and lines[-1] == "done"
    guest.qmp.wait_event("DEVICE_DELETED", device="nvme0")


def test_no_iommu(boot_nvme):
    guest = boot_nvme(kernel_arguments="intel_iommu=off")
    address = device(guest)["address"]
    text, status = guest.status(f"vhostctl nvme bind {address} 2>&1")
    assert status == 1 and "intel_iommu=on" in text
    assert device(guest)["driver"] == "nvme"
