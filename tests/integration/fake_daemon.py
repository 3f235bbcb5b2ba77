# SPDX-License-Identifier: BSD-3-Clause
"""A daemon that says what a test wants."""
import contextlib
import socket
import threading

from harness import DEADLINE


class FakeDaemon:
    """Answers all that a client sends, up to the end of its stream, with reply(that)."""

    def __init__(self, path, reply) -> None:
        self.path = path
        self.reply = reply
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(16)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection:
                text = b""
                while piece := connection.recv(65536):
                    text += piece
                if not text:
                    return
                with contextlib.suppress(OSError):
                    connection.sendall(self.reply(text))

    def stop(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self.path))
        self.thread.join(DEADLINE)
        self.listener.close()
