# SPDX-License-Identifier: BSD-3-Clause
"""Runs vhostd for a test and speaks JSON-RPC with it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VHOSTD = Path(os.environ.get("VHOSTD_BIN", ROOT / "build" / "bin" / "vhostd"))
# Seconds, for each wait: emulated guests are slow, and virtual CPUs stand still for long, at times.
DEADLINE = 240


class RpcError(Exception):
    """An error answer: code and message as the daemon gave them."""

    def __init__(self, method: str, error: dict) -> None:
        super().__init__(f"{method}: {error.get('message')} ({error.get('code')})")
        self.code = error.get("code")


def rpc(path: Path, method: str, deadline: float = DEADLINE, **params):
    """Calls one method over a connection of its own and returns the result."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method}
    if params:
        request["params"] = params
    text = ""
    end = time.monotonic() + deadline
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(deadline)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode())
        while True:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionError(f"{method}: the daemon closed the connection")
            text += piece.decode()
            with contextlib.suppress(json.JSONDecodeError):     # not complete yet
                answer, _ = json.JSONDecoder().raw_decode(text)
                break
    if "error" in answer:
        raise RpcError(method, answer["error"])
    return answer["result"]


def wait_until(condition, what: str, interval: float = 0.02):
    """Polls condition() until it returns something true, which is returned."""
    end = time.monotonic() + DEADLINE
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {DEADLINE} s")
        time.sleep(interval)


def stop_process(process: subprocess.Popen, first: int) -> int:
    """Sends the signal and waits; a process that stays is killed and reported."""
    if process.poll() is None:
        process.send_signal(first)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(DEADLINE)
            raise
    return process.returncode


class Vhostd:
    """One daemon with all it needs in one folder; start and stop as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rpc_socket = folder / "rpc.sock"
        self.log = folder / "vhostd.log"
        self.process: subprocess.Popen | None = None
        self.cpus = "0"     # from the next start on
        self.options: list[str] = []    # likewise

    def start(self) -> None:
        command = [str(VHOSTD), "-l", self.cpus, "-S", str(self.folder), "-r", str(self.rpc_socket),
                   "--state", str(self.folder / "state.json"), *self.options]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, cwd=self.folder)
        wait_until(self.is_ready, f"{VHOSTD} answering on {self.rpc_socket}")

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise ChildProcessError(f"{VHOSTD} ended with status {self.process.returncode}")
        try:
            self.rpc("rpc_get_methods", deadline=2)
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Stops with SIGTERM; a status other than 0 is an error (a sanitizer's, for one)."""
        process, self.process = self.process, None
        if process:
            status = stop_process(process, signal.SIGTERM)
            assert status == 0, f"{VHOSTD} ended with status {status}"

    def kill(self) -> None:
        """Stops with SIGKILL, as a crash would."""
        process, self.process = self.process, None
        stop_process(process, signal.SIGKILL)

    def rpc(self, method: str, deadline: float = DEADLINE, **params):
        return rpc(self.rpc_socket, method, deadline, **params)

    def image(self, name: str = "disk0", size: int = 64 << 20) -> Path:
        """Makes an empty sparse disk image."""
        path = self.folder / f"{name}.img"
        with open(path, "xb") as file:
            file.truncate(size)
        return path

    def serve(self, image: Path, name: str = "disk0", block_size: int = 512,
              readonly: bool = False, packed_ring: bool = False) -> Path:
        """Serves an image as controller vhost.NAME on block device NAME; returns its socket."""
        if readonly:
            self.rpc("bdev_aio_create", name=name, filename=str(image), block_size=block_size,
                     readonly=True)
        else:
            self.rpc("bdev_uring_create", name=name, filename=str(image), block_size=block_size)
        return self.serve_bdev(name, readonly, packed_ring)

    def serve_bdev(self, name: str, readonly: bool = False, packed_ring: bool = False) -> Path:
        """Makes controller vhost.NAME on an existing block device; returns its socket."""
        controller = f"vhost.{name}"
        self.rpc("vhost_create_blk_controller", ctrlr=controller, dev_name=name,
                 readonly=readonly, packed_ring=packed_ring)
        return self.folder / controller

    def serve_scsi(self, targets: dict[int, str | list[str]], name: str = "scsi0") -> Path:
        """Makes SCSI controller vhost.NAME with these targets, {number: block device, or one for
        each LUN}; returns its socket."""
        controller = f"vhost.{name}"
        self.rpc("vhost_create_scsi_controller", ctrlr=controller)
        for number, bdevs in targets.items():
            self.rpc("vhost_scsi_controller_add_target", ctrlr=controller, scsi_target_num=number,
                     bdev_name=bdevs)
        return self.folder / controller
