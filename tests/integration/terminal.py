# SPDX-License-Identifier: BSD-3-Clause
"""A program on a terminal: a vt100 of which a test sees the screen, types the keys and turns the size."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading

from harness import DEADLINE, wait_until

SEQUENCE = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|\x1b[()][A-Za-z0-9]|\x1b([=>78DME])|\x1b#8|(.)",
                      re.DOTALL)


class Terminal:
    def __init__(self, command: list[str], rows=24, columns=120, term="vt100") -> None:
        self.lock = threading.Lock()
        self.master, slave = pty.openpty()
        self.set_size(rows, columns)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"TERM": term, "LC_ALL": "C.UTF-8"}, preexec_fn=self.own, close_fds=True)
        os.close(slave)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    @staticmethod
    def own() -> None:
        """The terminal is that of the process: it is told when the size changes, or it hangs up."""
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)    # may have been ignored, as by nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def set_size(self, rows: int, columns: int) -> None:
        with self.lock:
            self.rows, self.columns = rows, columns
            self.cells = [[" "] * columns for _ in range(rows)]
            self.row = self.column = 0
            self.top, self.bottom = 0, rows - 1
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> None:
        text = b""
        while True:
            try:
                piece = os.read(self.master, 65536)
            except OSError:     # the other side is closed
                return
            # A sequence or character may be cut anywhere; what is left waits for the rest.
            text += piece
            end = len(text)
            cut = text.rfind(b"\x1b", end - 16 if end > 16 else 0)
            if cut >= 0 and not SEQUENCE.fullmatch(text[cut:cut + 16].decode("latin1")[:end - cut]):
                whole = SEQUENCE.match(text[cut:].decode("latin1"))
                end = end if whole and whole.group(4) != "\x1b" else cut
            with self.lock:
                self.feed(text[:end].decode(errors="replace"))
            text = text[end:]

    def feed(self, text: str) -> None:
        for match in SEQUENCE.finditer(text):
            if match.group(2):
                self.control(match.group(1), match.group(2))
            elif match.group(3) == "M":
                self.row -= self.row > 0
                if self.row == self.top - 1:
                    self.row += 1
                    self.scroll(-1)
            elif match.group(4):
                self.put(match.group(4))

    def scroll(self, direction: int) -> None:
        """Moves the rows of the scrolling region: 1 up, -1 down."""
        gone, new = (self.top, self.bottom) if direction > 0 else (self.bottom, self.top)
        del self.cells[gone]
        self.cells.insert(new, [" "] * self.columns)

    def put(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            if self.row == self.bottom:
                self.scroll(1)
            else:
                self.row = min(self.row + 1, self.rows - 1)
        elif char == "\b":
            self.column = max(self.column - 1, 0)
        elif char >= " " and self.row < self.rows and self.column < self.columns:
            self.cells[self.row][self.column] = char
            self.column += 1

    def control(self, parameters: str, final: str) -> None:
        numbers = [int(n or 0) for n in parameters.strip("?").split(";")]
        count = max(numbers[0], 1)
        if final == "r":
            self.top = min(max(numbers[0], 1), self.rows) - 1
            self.bottom = min(numbers[1] if len(numbers) > 1 else self.rows, self.rows) - 1
            self.row = self.column = 0
        elif final == "H":
            self.row = min(max(numbers[0], 1), self.rows) - 1
            self.column = min(max(numbers[1] if len(numbers) > 1 else 1, 1), self.columns) - 1
        elif final in "AB":
            self.row = min(max(self.row + (count if final == "B" else -count), 0), self.rows - 1)
        elif final in "CD":
            self.column = min(max(self.column + (count if final == "C" else -count), 0),
                              self.columns - 1)
        elif final == "K":
            first, end = ((self.column, self.columns), (0, self.column + 1))[numbers[0]]
            self.cells[self.row][first:end] = " " * (end - first)
        elif final == "J":
            self.cells[self.row][self.column:] = " " * (self.columns - self.column)
            for row in range(self.row + 1, self.rows):
                self.cells[row] = [" "] * self.columns

    def lines(self) -> list[str]:
        with self.lock:
            return ["".join(row).rstrip() for row in self.cells]

    def text(self) -> str:
        return "\n".join(self.lines())

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait_for(self, condition, what: str) -> None:
        """condition: of the lines; or a text that is on the screen."""
        try:
            wait_until(lambda: condition in self.text() if isinstance(condition, str)
                       else condition(self.lines()), what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None

    def wait(self) -> int:
        """The exit status, when it has ended by itself."""
        status = self.process.wait(DEADLINE)
        self.reader.join(DEADLINE)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.reader.join(DEADLINE)
        self.process.stderr.close()
        os.close(self.master)
