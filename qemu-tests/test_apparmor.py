# SPDX-License-Identifier: BSD-3-Clause
"""The AppArmor profile of the package, enforced by a real kernel: what it must let the daemon do, and what not."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import daemon
from conftest import unavailable
from guest import Guest, machine_arguments
from guest_image import Cpio, add_programs

BIN = daemon.VHOSTD.parent
PROGRAMS = [BIN / "vhostd", BIN / "vhostctl", BIN / "vhost_load", Path("/usr/bin/setpriv")]
PROFILE = Path(__file__).resolve().parent.parent / "packaging" / "apparmor" / "usr.sbin.vhostd"
FEATURES = Path("/etc/apparmor.d/abi/3.0")
RULE = "/tank/images/** rwk,"       # as an administrator adds it

# As the unit does: a user of its own, with one capability.
START = """
ip link set lo up
mkdir -p /run/vhostd /var/lib/vhostd /srv /etc/private
chown 64000:64001 /run/vhostd /var/lib/vhostd
/bin/setpriv --reuid 64000 --regid 64001 --clear-groups --no-new-privs --bounding-set -all,+dac_override \
    --inh-caps -all,+dac_override --ambient-caps +dac_override \
    /usr/sbin/vhostd -S /run/vhostd -r /run/vhostd/rpc.sock --state /var/lib/vhostd/state.json \
    --metrics 127.0.0.1:9815 >/tmp/log 2>&1 &
echo $! > /tmp/pid
until grep -q 'ready: ' /tmp/log; do kill -0 $(cat /tmp/pid) || { cat /tmp/log; exit 1; }; sleep 0.1; done
"""


def compiled(folder: Path) -> bytes:
    """The profile as the kernel takes it, with a local rule."""
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin")
    if parser is None or not FEATURES.exists():
        unavailable("not installed: apparmor (packaging/install-deps.sh test)")
    text = PROFILE.read_text()
    local = "include if exists <local/usr.sbin.vhostd>"
    assert local in text
    (folder / "profile").write_text(text.replace(local, RULE))
    return subprocess.run([parser, "--stdout", "--skip-kernel-load", "--skip-cache", "--quiet", "--features-file",
                           FEATURES, folder / "profile"], check=True, capture_output=True, timeout=60).stdout


@pytest.fixture
def guest(folder, linux_image, start_qemu) -> Guest:
    """A guest that enforces the profile, with a daemon under it, a disk, an NVMe disk and an IOMMU."""
    cpio = Cpio()
    cpio.file("/profile", compiled(folder), 0o644)
    image = add_programs(linux_image, PROGRAMS, folder)
    image.initramfs.write_bytes(image.initramfs.read_bytes() + cpio.finish())
    machine = [*machine_arguments(512), "-device", "intel-iommu,intremap=on"]
    for name, device in (("disk", "virtio-blk-pci"), ("nvme", "nvme,serial=1")):
        path = folder / f"{name}.img"
        path.touch()
        with open(path, "r+b") as file:
            file.truncate(4 << 20)
        machine += ["-drive", f"if=none,id={name},format=raw,file={path}", "-device", f"{device},drive={name}"]
    guest = start_qemu(Guest(folder, image, machine, "intel_iommu=on apparmor=1 security=apparmor"))
    guest.run("while read -r module; do insmod /modules/$module.ko; done < /modules/vfio\n"
              "mount -t securityfs securityfs /sys/kernel/security\n"
              "mv /bin/vhostd /usr/sbin/vhostd\n"
              "cat /profile > /sys/kernel/security/apparmor/.replace")
    guest.run(START)
    return guest


def denied(guest: Guest) -> list[str]:
    """What AppArmor has refused since the last call: the names of objects."""
    return re.findall(r'apparmor="DENIED".*?(?:name|capname)="(.*?)"', guest.run("dmesg -c"))


def serve(guest: Guest, bdev: str) -> None:
    """A front-end that is not confined writes the disk and reads it again."""
    guest.run(f"vhostctl vhost_create_blk_controller --ctrlr vm --dev_name {bdev}")
    assert "0 wrong" in guest.run("vhost_load --socket /run/vhostd/vm --verify --seconds 1", 120)
    guest.run("vhostctl vhost_delete_controller --ctrlr vm")


def test_profile(guest):
    assert guest.run("cat /proc/$(pidof vhostd)/attr/current") == "vhostd (enforce)"
    guest.run("mkdir -p /tank/images && for file in /srv/disk.img /tank/images/disk.img; do\n"
              "truncate -s 4M $file; chmod 600 $file; done")
    guest.run("vhostctl bdev_uring_create --name image --filename /srv/disk.img\n"
              "vhostctl bdev_uring_create --name tank --filename /tank/images/disk.img\n"
              "vhostctl bdev_uring_create --name device --filename /dev/vda\n"
              "vhostctl bdev_nvme_set_hotplug --enable")
    address = guest.run("vhostctl nvme list | awk 'NR > 1 { print $1 }'")
    plugged = f"nvme-{address}n1"
    guest.run(f"vhostctl nvme bind {address}\n"
              f"until vhostctl bdev_get_bdevs --name {plugged} >/dev/null 2>&1; do sleep 0.1; done")
    for bdev in ("image", "tank", "device", plugged):
        serve(guest, bdev)
    assert denied(guest) == []

    assert "process_start_time_seconds" in guest.run("wget -q -O - http://127.0.0.1:9815/metrics")
    assert denied(guest) == []

    # Its state comes back, and it stops in order.
    guest.run("kill $(pidof vhostd)\nwhile pidof vhostd; do sleep 0.1; done")
    guest.run(START)
    serve(guest, "image")
    assert denied(guest) == []

    # What is not a disk's place stays closed, whoever asks.
    for path in ("/etc/private/disk.img", "/elsewhere.img", "/home/somebody/.ssh/key"):
        guest.run(f"mkdir -p $(dirname {path}); truncate -s 1M {path}")
        text, status = guest.status(f"vhostctl bdev_uring_create --name no --filename {path} 2>&1")
        assert status == 1 and "Permission denied" in text
        assert set(denied(guest)) == {path}
