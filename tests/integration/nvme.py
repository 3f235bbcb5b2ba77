# SPDX-License-Identifier: BSD-3-Clause
"""Runs the software NVMe device (tests/nvme_device/main.c is its manual) in a test's folder."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from harness import DEADLINE, VHOSTD, wait_until

NVME_DEVICE = Path(os.environ.get("NVME_DEVICE_BIN", VHOSTD.with_name("nvme_device")))
NAMESPACE = "ns add 1 memory 8192 512"


class NvmeDevice:
    """One device; start and stop as often as wanted. Without lines: a namespace of 4 MiB."""

    def __init__(self, folder: Path, name: str = "nvme", *lines: str) -> None:
        self.socket = folder / name
        self.control_socket = folder / f"{name}.control"
        self.log = folder / f"{name}.log"
        self.lines = lines or (NAMESPACE,)
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [str(NVME_DEVICE), "--socket", str(self.socket), "--control",
                   str(self.control_socket)]
        for line in self.lines:
            command += ["-c", line]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        wait_until(self.is_ready, "the NVMe device answers")

    def is_ready(self) -> bool:
        status = self.process.poll()
        assert status is None, f"nvme_device ended with {status}:\n{self.log.read_text()}"
        try:
            self.control("stats")
        except OSError:
            return False
        return True

    def control(self, line: str) -> str:
        """One line of the control socket; what is behind "ok "."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(DEADLINE)
            connection.connect(str(self.control_socket))
            connection.sendall(line.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                piece = connection.recv(1 << 16)
                assert piece, f"{line}: the device closed the connection"
                answer += piece
        text = answer.decode().strip()
        assert text.startswith("ok"), f"{line}: {text}"
        return text[3:]

    def stats(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self.control("stats").split() if "=" in word)

    def stop(self) -> None:
        """Its client has broken no rule."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        assert status == 0, f"nvme_device ended with {status}:\n{self.log.read_text()}"

    def kill(self) -> None:
        process, self.process = self.process, None
        process.kill()
        process.wait()


class Watch:
    """What clients were told, from now on."""

    def __init__(self, daemon) -> None:
        self.daemon = daemon
        told = daemon.rpc("notify_get_notifications", id=0, max=100000)
        self.next = told[-1]["id"] + 1 if told else 0

    def wait(self, kind: str, words: str) -> None:
        end = time.monotonic() + DEADLINE
        while True:
            told = self.daemon.rpc("notify_get_notifications", id=self.next, max=100000)
            if any(entry["type"] == kind and words in entry["ctx"] for entry in told):
                return
            assert time.monotonic() < end, f"no {kind} with '{words}': {told}"
            time.sleep(0.02)
