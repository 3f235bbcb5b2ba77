# SPDX-License-Identifier: BSD-3-Clause
"""What the SCSI tests share: guests with virtio-scsi controllers, and the names of their LUNs."""

from pathlib import Path

from guest import Guest, disk_arguments

DRIVER = "vhost-user-scsi-pci"


def boot_scsi(boot, sockets: list[Path], luns: list[str], properties: str = "",
              arguments: tuple[str, ...] = (), reconnect: bool = False, **kwargs) -> Guest:
    """Boots a guest with a device for each controller, and waits until its kernel has exactly these
    LUNs (HOST:CHANNEL:TARGET:LUN)."""
    guest = boot(*arguments, *disk_arguments(sockets, properties, reconnect, DRIVER), **kwargs)
    guest.load("scsi")
    wait_for_luns(guest, luns)
    return guest


def wait_for_luns(guest: Guest, luns: list[str]) -> None:
    """Waits until the guest's kernel has exactly these LUNs, each with its device nodes."""
    expected = " ".join(sorted(luns)) or "*"
    output, status = guest.status(f"""
        ready() {{
            [ "$(cd /sys/class/scsi_device && echo *)" = '{expected}' ] || return 1
            for lun in {' '.join(luns)}; do
                cd /sys/class/scsi_device/$lun/device
                [ -b /dev/$(echo block/* | cut -d/ -f2) ] || return 1
                [ -c /dev/$(echo scsi_generic/* | cut -d/ -f2) ] || return 1
            done
        }}
        left=4000
        until ready 2>/dev/null; do
            left=$((left - 1))
            [ $left -gt 0 ] || {{ echo /sys/class/scsi_device/*; dmesg | tail -30; exit 1; }}
            usleep 50000
        done
    """)
    assert status == 0, f"the guest does not have just {expected}:\n{output}"


def disk(guest: Guest, lun: str) -> str:
    """The disk's name, as sda."""
    return guest.run(f"ls /sys/class/scsi_device/{lun}/device/block")


def sg_node(guest: Guest, lun: str) -> str:
    """The generic device, as /dev/sg0."""
    return "/dev/" + guest.run(f"ls /sys/class/scsi_device/{lun}/device/scsi_generic")
