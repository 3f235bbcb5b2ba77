# SPDX-License-Identifier: BSD-3-Clause
"""A file system made and filled in the guest is right in the guest and on the host."""

import subprocess

from guest import disk_arguments


def host_e2fsck(image) -> None:
    """Checks the image file as it is on the host, without repairing anything."""
    check = subprocess.run(["e2fsck", "-f", "-n", str(image)], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stdout


def host_read(image, path: str) -> bytes:
    """Reads a file out of an ext4 image on the host."""
    return subprocess.run(["debugfs", "-R", f"cat {path}", str(image)], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, timeout=60, check=True).stdout


def test_ext4(vhostd, boot):
    image = vhostd.image(size=96 << 20)
    guest = boot(*disk_arguments([vhostd.serve(image)]))
    guest.run("""
        mkfs.ext4 -q /dev/vda
        mount /dev/vda /mnt
        cp -a /bin /usr /lib /modules /mnt
        mkdir /mnt/small
        for i in $(seq 200); do echo "file $i" > /mnt/small/$i; done
        (cd /mnt && find . -type f -exec sha256sum {} + > /tmp/sums)
        cp /tmp/sums /mnt/sums
        umount /mnt
        e2fsck -f -n /dev/vda
        mount -o ro /dev/vda /mnt
        (cd /mnt && sha256sum -c -s sums)
        umount /mnt
    """)
    host_e2fsck(image)
    assert host_read(image, "/small/200") == b"file 200\n"
    assert host_read(image, "/bin/busybox").startswith(b"\x7fELF")


def test_fstrim(vhostd, boot):
    """Blocks of deleted files go back to the host through a mounted file system."""
    image = vhostd.image(size=64 << 20)
    guest = boot(*disk_arguments([vhostd.serve(image)]))
    guest.run("""
        mkfs.ext4 -q -E lazy_itable_init=0 /dev/vda
        mount /dev/vda /mnt
        dd if=/dev/urandom of=/mnt/big bs=1M count=32
        sync
    """)
    full = image.stat().st_blocks
    assert full * 512 > 32 << 20
    guest.run("""
        rm /mnt/big
        sync
        fstrim /mnt
        umount /mnt
    """)
    assert image.stat().st_blocks * 512 < (full * 512) - (28 << 20)
    host_e2fsck(image)
