# SPDX-License-Identifier: BSD-3-Clause
"""Somebody follows docs/libvirt.md, line by line: its blocks are run as they stand there. What they
install and change goes to folders of the test's; systemd's part is played by a script, since its
services cannot be started for a test."""

import os
import re

import pytest

from conftest import unavailable
from daemon import ROOT, VHOSTD
from libvirtd import Domain, Libvirtd, missing_programs

DOCUMENT = ROOT / "docs" / "libvirt.md"
BLOCK = re.compile(r"^```(\w+)( guest)?\n(.*?)^```$", re.M | re.S)

# What the installed unit says, as systemd does it: user, group, one capability and folders, and a
# start ends when the daemon is ready.
SYSTEMCTL = r"""#!/bin/sh -eu
unit=$DESTDIR/usr/lib/systemd/system/vhostd.service
setting() {
	sed -n "s/^$1=//p" "$unit"
}
start() {
	user=$(setting User) group=$(setting Group)
	command=$(setting ExecStart | sed 's/ \$VHOSTD_OPTIONS//')
	umask "$(setting UMask)"
	install -d -m 0755 -o "$user" -g "$group" /run/vhostd
	install -d -m 0700 -o "$user" -g "$group" /var/lib/vhostd
	# shellcheck disable=SC2086 # systemd splits it at spaces, too
	cd / && setsid setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs \
		--inh-caps -all,+dac_override --ambient-caps +dac_override --bounding-set -all,+dac_override \
		"$DESTDIR"$command >>/var/log/vhostd.log 2>&1 &
	tries=200
	until vhostctl -t 5 spdk_get_version >/dev/null 2>&1; do
		tries=$((tries - 1))
		[ $tries -gt 0 ]
		sleep 0.1
	done
}
case $* in
daemon-reload) [ -e "$unit" ] ;;
"enable --now vhostd") start ;;
*) echo "systemctl $*: unknown here" >&2; exit 1 ;;
esac
"""
SYSUSERS = """#!/bin/sh
exec /usr/bin/systemd-sysusers "$DESTDIR/usr/lib/sysusers.d/vhostd.conf"
"""
SUDO = '#!/bin/sh\nexec "$@"\n'

# An editor for somebody who puts what the document shows where it says.
EDITOR = """#!/usr/bin/python3
import re, sys
path = sys.argv[-1]
text = open(path).read()
shown = open({shown!r}).read().split("\\0")
text = text.replace("<vcpu", shown[0] + "<vcpu", 1).replace("</devices>", shown[1] + "</devices>")
open(path, "w").write(text)
"""


@pytest.fixture
def libvirtd(folder, logs, programs):
    if os.geteuid() != 0 or missing_programs():
        unavailable("needs root, and libvirt (packaging/install-deps.sh test)")
    folder.chmod(0o711)
    instance = Libvirtd(folder, "libvirt-qemu", "libvirt-qemu")
    logs.append(instance.log)
    try:
        instance.start()
        yield instance
    finally:
        instance.stop()


def script(path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Reader:
    """Somebody at a shell of the libvirt machine."""

    def __init__(self, libvirtd: Libvirtd, blocks: list[tuple[str, str, str]]) -> None:
        self.libvirtd = libvirtd
        programs, shown = libvirtd.folder / "bin", libvirtd.folder / "shown"
        shown.write_text("\0".join(text for kind, _, text in blocks if kind == "xml"))
        script(programs / "sudo", SUDO)
        script(programs / "systemctl", SYSTEMCTL)
        script(programs / "systemd-sysusers", SYSUSERS)
        script(programs / "editor", EDITOR.format(shown=str(shown)))
        installed = libvirtd.folder / "installed"
        self.environment = {
            "PATH": f"{programs}:{installed}/usr/sbin:{installed}/usr/bin:{os.environ['PATH']}",
            "DESTDIR": str(installed), "BUILD": str(VHOSTD.parent.parent), "HOME": "/root",
            "EDITOR": str(programs / "editor"), "LIBVIRT_DEFAULT_URI": "qemu:///system"}

    def run(self, text: str) -> str:
        done = self.libvirtd.inside(["sh", "-eux", "-c", f"cd '{ROOT}'\n{text}"],
                                    env=self.environment)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def test_line_by_line(libvirtd, folder, linux_image, logs):
    blocks = BLOCK.findall(DOCUMENT.read_text())
    assert [kind for kind, _, _ in blocks].count("xml") == 2
    reader = Reader(libvirtd, blocks)
    # What QEMU runs as another user must be able to read.
    files = [folder / "vmlinux", folder / "initramfs"]
    for source, target in zip(linux_image, files):
        target.write_bytes(source.read_bytes())
        target.chmod(0o644)
    domain = Domain(libvirtd, "vm1", linux_image._replace(vmlinux=files[0], initramfs=files[1]),
                    memory="", ports=0).define()
    logs += [domain.console, libvirtd.folder / "var/log/vhostd.log"]
    outputs = {}
    try:
        for kind, where, text in blocks:
            if kind == "xml":
                continue
            if where:   # somebody is not so quick
                domain.run("until [ -b /dev/vda ]; do usleep 50000; done")
            outputs[text] = domain.run(text) if where else reader.run(text)
            if "virsh start" in text:
                domain.wait_started()
    finally:
        domain.stop()

    def output(word: str) -> str:
        return next(found for text, found in outputs.items() if word in text)

    # It says what it does, and does it.
    assert "vm1 has data1 (/var/lib/vhostd/data1.img, 10737418240 bytes) as vda" in output("provision")
    assert "MISSING" not in output("libvirt check vm1\n")
    assert re.search(r"9\.\d+G .*/mnt", output("mkfs.ext4"))
    assert re.search(r"data1 +vm1 +running +vda", output("libvirt list"))
    assert "vm1 has vm1.fast as vda" in output("libvirt attach")
    assert "<disk type=\"vhostuser\"" in output("libvirt xml")
    assert "vhostuser" not in reader.run("virsh dumpxml vm1; virsh dumpxml --inactive vm1")
