# SPDX-License-Identifier: BSD-3-Clause
"""A read-only controller is read-only to the guest, which can still use what is on it."""

import subprocess

import pytest

from guest import disk_arguments


@pytest.fixture
def image(vhostd):
    """An ext4 image with one file, made on the host."""
    path = vhostd.image(size=32 << 20)
    content = vhostd.folder / "content"
    content.mkdir()
    (content / "hello").write_text("hello from the host\n")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(content), str(path)], check=True,
                   timeout=60, stdin=subprocess.DEVNULL)
    return path


def check_readonly(vhostd, boot, image, bdev_readonly: bool) -> None:
    before = image.read_bytes()
    if bdev_readonly:
        disk = vhostd.serve(image, readonly=True)
    else:
        vhostd.rpc("bdev_uring_create", name="disk0", filename=str(image), block_size=512)
        disk = vhostd.serve_bdev("disk0", readonly=True)
    guest = boot(*disk_arguments([disk]))
    assert guest.run("cat /sys/block/vda/ro; blockdev --getro /dev/vda").split() == ["1", "1"]
    assert guest.run("mount -o ro /dev/vda /mnt; cat /mnt/hello; umount /mnt") == \
        "hello from the host"
    for attempt in ("dd if=/dev/zero of=/dev/vda bs=512 count=1 oflag=direct",
                    "/usr/sbin/blkdiscard /dev/vda", "mount -o rw /dev/vda /mnt && touch /mnt/a"):
        assert guest.status(attempt)[1] != 0, attempt
    # The flag is only the guest's own: without it, the device itself has to refuse.
    guest.status("blockdev --setrw /dev/vda")
    output, status = guest.status("dd if=/dev/zero of=/dev/vda bs=512 count=1 oflag=direct")
    assert status != 0, output
    assert guest.run("dd if=/dev/vda of=/dev/null bs=1M") is not None
    assert image.read_bytes() == before


def test_readonly_controller(vhostd, boot, image):
    """A writable block device behind a read-only controller."""
    check_readonly(vhostd, boot, image, bdev_readonly=False)


def test_readonly_file(vhostd, boot, image):
    """A file that the daemon may only read."""
    image.chmod(0o444)
    check_readonly(vhostd, boot, image, bdev_readonly=True)
