"""`relatch top` on a terminal of its own, and what stands on it.

Knows as much of a terminal as is written to this one: moving, clearing, characters. Colours are passed over.
"""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading
import time

COLUMNS, LINES = 200, 60
# A picture is whole at its end: `?2026l` closes what `?2026h` has begun.
PART = re.compile(r"\x1b\[(\?)?([0-9;]*)([A-Za-z])|\x1b[()][A-Z0-9]|\x1b[=>78M]|(.)", re.S)
WHOLE = "\x1b[?2026l"
HANGS = re.compile(r"^[▸ ]*keeper \d+\s+✗ hangs")
ROW = re.compile(r"^[▸ ]*(\S+)\s+[✓↻!✗?] (\w+)\b")


class Terminal:
    def __init__(self, room):
        self.lines = {}
        self.row = self.column = 0
        # The newest whole picture, and when it was drawn.
        self.picture, self.at = [], 0.0
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.process = room.spawn("top", [room.relatch, "top"], {"TERM": "xterm-256color", "NO_COLOR": "1"}, theirs, theirs)
        os.close(theirs)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        text = b""
        with contextlib.suppress(OSError):
            while more := os.read(self.ours, 65536):
                text += more
                # Up to the end of a picture, or else up to what may be half a character or half a command.
                end = text.rfind(WHOLE.encode())
                if end >= 0:
                    end += len(WHOLE)
                    self._write(text[:end].decode(errors="replace"))
                    text = text[end:]
                    self.picture = ["".join(self.lines.get(row, {}).get(c, " ") for c in range(COLUMNS)).rstrip() for row in range(LINES)]
                    self.at = time.monotonic()

    def _write(self, text):
        for private, numbers, command, character in PART.findall(text):
            if character == "\r":
                self.column = 0
            elif character == "\n":
                self.row += 1
            elif character:
                self.lines.setdefault(self.row, {})[self.column] = character
                self.column += 1
            elif not private:
                self._obey(command, [int(number or 1) for number in numbers.split(";")])

    def _obey(self, command, numbers):
        if command in "Hf":
            self.row, self.column = numbers[0] - 1, (numbers[1] if len(numbers) > 1 else 1) - 1
        elif command == "J":
            self.lines = {}
        elif command == "K":
            line = self.lines.get(self.row, {})
            self.lines[self.row] = {column: one for column, one in line.items() if column < self.column}
        elif command in "ABCD":
            self.row += {"A": -numbers[0], "B": numbers[0]}.get(command, 0)
            self.column += {"C": numbers[0], "D": -numbers[0]}.get(command, 0)

    def health(self, served):
        """What the picture says of each upstream: name to word. A keeper that hangs hangs with all that it serves."""
        hangs = {name: "hangs" for name in served} if any(map(HANGS.match, self.picture)) else {}
        return {**hangs, **{row[1]: row[2] for row in map(ROW.match, self.picture) if row}}

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self.ours)
