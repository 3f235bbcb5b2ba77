# SPDX-License-Identifier: BSD-3-Clause
"""Runs vhostd in a folder of its own and speaks JSON-RPC with it, as its clients do."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VHOSTD = Path(os.environ.get("VHOSTD_BIN", ROOT / "build" / "bin" / "vhostd"))
VHOSTCTL = Path(os.environ.get("VHOSTCTL_BIN", VHOSTD.with_name("vhostctl")))
DEADLINE = 120  # seconds, for each wait: virtual CPUs stand still for long, at times


class RpcError(Exception):
    """An error answer: code and message as the daemon gave them."""

    def __init__(self, error: dict) -> None:
        super().__init__(f"{error['message']} ({error['code']})")
        self.code = error["code"]
        self.message = error["message"]


class Connection:
    """A raw connection: bytes out, JSON documents in, with nothing between them."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(str(path))
        self.text = ""

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def next(self):
        """The next document, or None at the end of the stream."""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text)
            except json.JSONDecodeError:
                piece = self.socket.recv(1 << 20)
                if not piece:
                    assert not self.text.strip(), "a document is cut off"
                    return None
                self.text += piece.decode()
                continue
            self.text = self.text[end:].lstrip()
            return value

    def call(self, method: str, **params):
        request = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params:
            request["params"] = params
        self.send(json.dumps(request).encode())
        answer = self.next()
        assert answer is not None, f"{method}: the daemon closed the connection"
        assert answer["jsonrpc"] == "2.0" and answer["id"] == 1
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]


def wait_until(condition, what: str):
    """Polls condition() until it returns something true, which is returned."""
    end = time.monotonic() + DEADLINE
    while not (result := condition()):
        assert time.monotonic() < end, f"{what}: not within {DEADLINE} s"
        time.sleep(0.01)
    return result


class Vhostd:
    """One daemon; start and stop as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "rpc.sock"
        self.state = folder / "state.json"
        self.log = folder / "vhostd.log"
        self.process: subprocess.Popen | None = None

    def spawn(self, *options: str) -> subprocess.Popen:
        command = [str(VHOSTD), "-l", "0", "-S", str(self.folder), "-r", str(self.socket),
                   "--state", str(self.state), *options]
        with open(self.log, "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    cwd=self.folder)

    def start(self, *options: str) -> None:
        self.process = self.spawn(*options)
        wait_until(self.is_ready, "vhostd answers")

    def is_ready(self) -> bool:
        status = self.process.poll()
        assert status is None, f"vhostd ended with {status}:\n{self.log_text()}"
        try:
            self.rpc("spdk_get_version")
        except OSError:
            return False
        return True

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self) -> int:
        """Waits for the end of the process and returns its status."""
        process, self.process = self.process, None
        try:
            return process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def stop(self) -> None:
        """Stops with SIGTERM; a status other than 0 (a sanitizer's, for one) is an error."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            status = self.wait()
            assert status == 0, f"vhostd ended with {status}:\n{self.log_text()}"

    def kill(self) -> None:
        """Stops as a crash would."""
        self.process.kill()
        assert self.wait() == -signal.SIGKILL

    def connect(self) -> Connection:
        return Connection(self.socket)

    def rpc(self, method: str, **params):
        with self.connect() as connection:
            return connection.call(method, **params)

    def error(self, method: str, **params) -> RpcError:
        """Calls a method that must fail."""
        try:
            result = self.rpc(method, **params)
        except RpcError as error:
            return error
        raise AssertionError(f"{method}({params}) answered {result} instead of an error")

    def ctl(self, *args: str, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess:
        """Runs vhostctl on this daemon; it must end with that status."""
        return vhostctl("-s", str(self.socket), *args, status=status, stdin=stdin)

    def image(self, name: str = "disk.img", size: int = 1 << 20) -> Path:
        """Makes an empty sparse file."""
        path = self.folder / name
        with open(path, "xb") as file:
            file.truncate(size)
        return path


def vhostctl(*args: str, status: int = 0, stdin: str = "", env=None) -> subprocess.CompletedProcess:
    done = subprocess.run([str(VHOSTCTL), *args], input=stdin, capture_output=True, text=True,
                          timeout=DEADLINE, env=env)
    assert done.returncode == status, f"vhostctl {args}: {done}"
    return done
