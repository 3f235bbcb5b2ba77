# SPDX-License-Identifier: BSD-3-Clause
"""A guest reboots again and again in one QEMU process and finds what it wrote before."""

from guest import disk_arguments

REBOOTS = 5


def test_reboot(vhostd, boot):
    image = vhostd.image()
    guest = boot(*disk_arguments([vhostd.serve(image)], "num-queues=2"), cpus=2)
    for count in range(REBOOTS + 1):
        if count > 0:
            guest.reboot()
        found = guest.run(f"""
            dd if=/dev/vda bs=512 count={REBOOTS + 2} iflag=direct 2>/dev/null | tr -d '\\0'
            printf '%-512s' 'boot{count}' |
                dd of=/dev/vda bs=512 seek={count} oflag=direct 2>/dev/null
        """)
        assert found.split() == [f"boot{number}" for number in range(count)]
    assert image.read_bytes()[REBOOTS * 512:][:512] == b"boot5".ljust(512)


def test_reset_during_io(vhostd, boot):
    """A reset by QEMU in the middle of requests: the disk works after it."""
    guest = boot(*disk_arguments([vhostd.serve(vhostd.image())]))
    for _ in range(3):
        guest.run("""
            fio --name=load --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=32 \
                --rw=randwrite --bs=4k --time_based --runtime=60 >/tmp/fio.log 2>&1 &
            until [ "$(awk '{print $7}' /sys/block/vda/stat)" -gt 2000 ]; do :; done
        """)
        guest.qmp.command("system_reset")
        guest.wait_ready()
    guest.run("""
        fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=32 \
            --rw=randwrite --bs=4k --size=8m --verify=crc32c --verify_fatal=1
    """)
