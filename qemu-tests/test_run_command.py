# SPDX-License-Identifier: BSD-3-Clause
"""What a person does first: make run, and a guest with the QEMU command line it prints."""

import os
import re
import shlex
import signal
import subprocess
from xml.etree import ElementTree

import pytest

from daemon import ROOT, VHOSTD, stop_process, wait_until
from guest import ACCEL, CPU, Guest


# What the test chooses itself: options without and with a value.
OWN_FLAGS = {"-enable-kvm", "-nographic"}
OWN_OPTIONS = {"-accel", "-cpu", "-display", "-serial", "-monitor"}


class MakeRun:
    """One `make run` in a process group of its own, as a shell would start it."""

    def __init__(self, folder) -> None:
        self.run_dir = folder / "a run"    # a path may have spaces
        self.log = folder / "make-run.log"
        self.socket = self.run_dir / "vhost" / "disk0"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = ["make", "-C", str(ROOT), "--no-print-directory", "run",
                   f"RUN_DIR={self.run_dir}", f"BUILD={VHOSTD.parent.parent}"]
        # The tests may themselves be run by a make, whose variables are not for this one.
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("MAKE", "MFLAGS"))}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=environment, start_new_session=True)
        wait_until(self.is_ready, "make run printing its two blocks")

    def is_ready(self) -> bool:
        status = self.process.poll()
        assert status is None, f"make run ended with status {status}"
        return self.socket.exists() and bool(self.command_line()) and self.xml() is not None

    def block(self, title: str) -> str:
        """The text between a title's line and the next empty line."""
        text = self.log.read_text(errors="replace")
        match = re.search(rf"^{title}\n(.*?)(?:\n[ \t]*\n|\Z)", text, re.M | re.S)
        return match.group(1) if match else ""

    def command_line(self) -> list[str]:
        return shlex.split(self.block("QEMU command line:").replace("\\\n", " "))

    def xml(self) -> ElementTree.Element | None:
        try:
            return ElementTree.fromstring(f"<all>{self.block('libvirt XML:')}</all>")
        except ElementTree.ParseError:
            return None

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT for the whole group. Nothing of it may be left afterwards."""
        process, self.process = self.process, None
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                wait_until(lambda: process.poll() is not None and not group_lives(process.pid),
                           "the end of make run after Ctrl-C")
            finally:
                stop_process(process, signal.SIGKILL)
                if group_lives(process.pid):
                    os.killpg(process.pid, signal.SIGKILL)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def guest_arguments(command_line: list[str]) -> list[str]:
    """The printed arguments less those that the test chooses itself."""
    arguments = iter(command_line[1:])
    kept = ["-accel", ACCEL, "-cpu", CPU]
    for argument in arguments:
        if argument in OWN_OPTIONS:
            next(arguments)
        elif argument in ("-machine", "-M"):
            items = next(arguments).split(",")
            kept += [argument, ",".join(item for item in items if not item.startswith("accel="))]
        elif argument not in OWN_FLAGS:
            kept.append(argument)
    return kept


@pytest.fixture
def make_run(folder, logs):
    instance = MakeRun(folder)
    logs.append(instance.log)
    yield instance
    instance.interrupt()


def test_printed_command_line(make_run, folder, linux_image, start_qemu):
    """A guest started by the printed line has the disk; the next run serves the same data."""
    for count in range(2):
        make_run.start()
        command_line = make_run.command_line()
        assert os.path.basename(command_line[0]) == "qemu-system-x86_64"
        assert any(str(make_run.socket) in argument for argument in command_line)
        guest = start_qemu(Guest(folder, linux_image, guest_arguments(command_line)))
        found = guest.run(f"""
            dd if=/dev/vda bs=512 count=2 iflag=direct 2>/dev/null | tr -d '\\0'
            printf '%-512s' 'run{count}' | dd of=/dev/vda bs=512 seek={count} conv=fsync 2>/dev/null
        """)
        assert found.split() == [f"run{number}" for number in range(count)]
        guest.stop()
        make_run.interrupt()
    assert (make_run.run_dir / "disk0.img").read_bytes()[:516] == b"run0".ljust(512) + b"run1"


def test_interrupt_with_a_guest(make_run, folder, linux_image, start_qemu):
    """Ctrl-C ends the daemon in time although a guest is using the disk."""
    make_run.start()
    guest = start_qemu(Guest(folder, linux_image, guest_arguments(make_run.command_line())))
    guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=4 oflag=direct")
    make_run.interrupt()
    assert guest.run("echo alive") == "alive"


def test_libvirt_xml(make_run):
    """The XML names the socket as a vhost-user disk, and asks for shared memory."""
    make_run.start()
    xml = make_run.xml()
    disk = next(xml.iter("disk"))
    assert disk.get("type") == "vhostuser"
    source = disk.find("source")
    assert (source.get("type"), source.get("path")) == ("unix", str(make_run.socket))
    assert disk.find("target").get("bus") == "virtio"
    assert next(xml.iter("access")).get("mode") == "shared"
