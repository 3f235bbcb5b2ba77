# SPDX-License-Identifier: BSD-3-Clause
"""Runs QEMU, alone (firmware tests) or with the Linux test guest in it."""

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import time
from pathlib import Path

from daemon import DEADLINE, stop_process, wait_until
from guest_image import GuestImage

QEMU = os.environ.get("VHOSTD_TEST_QEMU", "qemu-system-x86_64")
ACCEL = os.environ.get("VHOSTD_TEST_ACCEL", "tcg")
# 5-level paging makes TCG's page walks longer; the kernel would use it if it could.
CPU = "max,la57=off"
# 16550 ports at 3f8h and 2f8h: the first is the console, the second the test's own channel.
KERNEL_ARGUMENTS = "console=ttyS0 panic=-1 nokaslr mitigations=off random.trust_cpu=on"


class Channel:
    """One end of a socket pair whose other end QEMU has from its start, so that nothing that
    comes out is missed."""

    def __init__(self) -> None:
        self.socket, self.qemu_end = socket.socketpair()
        self.buffer = b""

    def close(self) -> None:
        self.socket.close()
        self.qemu_end.close()

    def send(self, data: bytes) -> None:
        self.socket.settimeout(DEADLINE)
        self.socket.sendall(data)

    def receive(self, end: float) -> None:
        """Waits for more data until the monotonic time `end`."""
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("nothing more came")
        self.socket.settimeout(left)
        with contextlib.suppress(ConnectionResetError):
            piece = self.socket.recv(65536)
            self.buffer += piece
            if piece:
                return
        raise ConnectionError("QEMU went away")

    def read_until(self, pattern: bytes, deadline: float) -> tuple[bytes, re.Match]:
        """Takes everything up to and with the first match off the stream; returns what came
        before the match, and the match."""
        end = time.monotonic() + deadline
        while not (match := re.search(pattern, self.buffer)):
            self.receive(end)
        before, self.buffer = self.buffer[:match.start()], self.buffer[match.end():]
        return before, match


class Qmp:
    """QEMU's machine protocol: commands in, answers and events out."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.events: list[dict] = []

    def start(self) -> None:
        self.message(time.monotonic() + DEADLINE)     # the greeting
        self.command("qmp_capabilities")

    def message(self, end: float) -> dict:
        return json.loads(self.channel.read_until(rb"\n", end - time.monotonic())[0])

    def command(self, name: str, **arguments):
        self.channel.send(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        end = time.monotonic() + DEADLINE
        while True:
            message = self.message(end)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise RuntimeError(f"{name}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_event(self, name: str, **data) -> dict:
        """Takes the first event of that name whose data has the given values."""
        end = time.monotonic() + DEADLINE
        while True:
            for event in self.events:
                found = event.get("data", {})
                if event["event"] == name and data.items() <= found.items():
                    self.events.remove(event)
                    return event
            message = self.message(end)
            if "event" in message:
                self.events.append(message)


def qemu_version() -> tuple[int, int]:
    """Major and minor version of QEMU."""
    output = subprocess.run([QEMU, "--version"], check=True, timeout=DEADLINE,
                            stdout=subprocess.PIPE, text=True).stdout
    major, minor = re.search(r"version (\d+)\.(\d+)", output).groups()
    return int(major), int(minor)


def disk_arguments(sockets: list[Path], properties: str = "", reconnect: bool = False,
                   driver: str = "vhost-user-blk-pci") -> list[str]:
    """QEMU arguments for one device (id diskN) per controller socket."""
    arguments = []
    for number, path in enumerate(sockets):
        chardev = f"socket,id=vhost{number},path={path}" + (",reconnect=1" if reconnect else "")
        device = f"{driver},id=disk{number},chardev=vhost{number}"
        device += f",{properties}" if properties else ""
        arguments += ["-chardev", chardev, "-device", device]
    return arguments


def machine_arguments(memory_mib: int = 256, cpus: int = 1) -> list[str]:
    """QEMU arguments for a small q35 machine with shared memory, as vhost-user needs it."""
    return [
        "-nodefaults", "-no-user-config", "-accel", ACCEL, "-cpu", CPU, "-smp", str(cpus),
        "-m", f"{memory_mib}M", "-object",
        f"memory-backend-memfd,id=mem,size={memory_mib}M,share=on",
        "-machine", "q35,memory-backend=mem,sata=off,smbus=off,vmport=off",
    ]


class Qemu:
    """A QEMU process with its first serial port in a log file and a QMP connection."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder = folder                # for its logs; also its working directory
        self.arguments = arguments
        self.console = folder / "console.log"
        self.log = folder / "qemu.log"
        self.process: subprocess.Popen | None = None
        self.qmp_channel = Channel()
        self.qmp = Qmp(self.qmp_channel)
        self.channels = [self.qmp_channel]

    def command(self) -> list[str]:
        qmp = self.qmp_channel.qemu_end.fileno()
        return [QEMU, *self.arguments, "-display", "none", "-serial", f"file:{self.console}",
                "-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"]

    def start(self) -> None:
        command = self.command()
        with open(self.log, "ab") as log:
            log.write((" ".join(command) + "\n").encode())
            log.flush()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                pass_fds=[channel.qemu_end.fileno() for channel in self.channels])
        for channel in self.channels:
            channel.qemu_end.close()
        self.qmp.start()

    def stop(self) -> None:
        """Ends QEMU, asking it first; whoever does not end in time is killed and reported."""
        process, self.process = self.process, None
        try:
            if process and process.poll() is None:
                with contextlib.suppress(OSError):      # it may end before it answers
                    self.qmp.command("quit")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(DEADLINE)
                stop_process(process, 9)
        finally:
            for channel in self.channels:
                channel.close()

    def wait_console(self, text: str) -> None:
        """Waits until the text has been printed on the first serial port."""
        def printed() -> bool:
            if self.process.poll() is not None:
                raise ChildProcessError(f"QEMU ended with status {self.process.returncode}")
            return self.console.exists() and text.encode() in self.console.read_bytes()

        wait_until(printed, f"{text!r} on the console", 0.1)


class ScriptError(Exception):
    """A script in the guest ended with a status other than 0."""


class Guest(Qemu):
    """The Linux test guest: runs shell scripts, and returns what they print."""

    def __init__(self, folder: Path, image: GuestImage, arguments: list[str],
                 kernel_arguments: str = "") -> None:
        super().__init__(folder, arguments)
        self.image = image
        self.kernel_arguments = f"{KERNEL_ARGUMENTS} {kernel_arguments}".strip()
        self.shell = Channel()
        self.channels.append(self.shell)

    def command(self) -> list[str]:
        return super().command() + [
            "-chardev", f"socket,id=shell,fd={self.shell.qemu_end.fileno()}",
            "-serial", "chardev:shell", "-kernel", str(self.image.vmlinux),
            "-initrd", str(self.image.initramfs), "-append", self.kernel_arguments]

    def start(self) -> None:
        super().start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Waits until the guest takes scripts: after a start or a reboot."""
        self.shell.read_until(rb"READY\n", DEADLINE)

    def begin(self, script: str) -> str:
        """Sends a script; returns the word that finish() takes."""
        word = secrets.token_hex(8)
        self.shell.send(f"{word}\n{script}\n{word}\n".encode())
        return word

    def finish(self, word: str, deadline: float = DEADLINE) -> tuple[str, int]:
        """Waits for a script's end; returns its output and exit status."""
        output, match = self.shell.read_until(rb"\n%s (\d+)\n|READY\n" % word.encode(), deadline)
        if match.group(1) is None:
            raise ScriptError(f"the guest rebooted by itself:\n{output.decode(errors='replace')}")
        return output.decode(errors="replace"), int(match.group(1))

    def status(self, script: str, deadline: float = DEADLINE) -> tuple[str, int]:
        """Runs a script (under sh -eu); returns its output and exit status."""
        return self.finish(self.begin(script), deadline)

    def run(self, script: str, deadline: float = DEADLINE) -> str:
        """Runs a script (under sh -eu) that must succeed; returns its output, stripped."""
        output, status = self.status(script, deadline)
        if status != 0:
            raise ScriptError(f"status {status} from:\n{script}\nwhich printed:\n{output}")
        return output.strip()

    def load(self, group: str) -> None:
        """Loads a list of modules that is not loaded by itself (MORE_MODULES)."""
        self.run(f"while read -r module; do insmod /modules/$module.ko; done < /modules/{group}")

    def reboot(self) -> None:
        """Reboots the guest in the same QEMU process and waits until it is back."""
        self.begin("reboot -f")
        self.wait_ready()
