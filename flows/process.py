"""Commands that flows start: each supervised, so that none outlives the flow that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

SUPERVISOR = Path(__file__).with_name("supervisor.py")


class Supervised:
    """A command under `flows.supervisor`, which stops its process group when this process ends."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        grace_seconds: float,
        env: Mapping[str, str] | None = None,
        output: int | IO[bytes] = subprocess.PIPE,
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(SUPERVISOR), str(grace_seconds), *command],
            env=env,
            stdin=subprocess.PIPE,  # never written to: the supervisor notices when it closes
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C and a kill of our group must not reach it directly
        )
        self._asked = False

    def stop(self) -> None:
        """Ask for the end: SIGINT to the command's group, after the grace period harder ones."""
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def hurry(self) -> None:
        """Skip the rest of the grace period."""
        self._asked = True
        self._process.terminate()

    def running(self) -> bool:
        """Tell whether the command, or anything it started, is still there."""
        return self._process.poll() is None

    def chunks(self) -> Iterator[bytes]:
        """Give the output as it comes, until the command has ended."""
        assert self._process.stdout is not None
        while chunk := os.read(self._process.stdout.fileno(), 1 << 16):
            yield chunk

    def wait(self) -> int:
        """Wait until nothing of the command is left; return its exit code, 128 + n for signal n."""
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return code if code >= 0 else 128 - code


class Transcript:
    """The first and last lines of an output, however long it was."""

    def __init__(self, keep: int = 200) -> None:
        self.first: list[str] = []
        self.last: deque[str] = deque(maxlen=keep)
        self._keep = keep
        self._rest = b""

    def add(self, chunk: bytes) -> None:
        """Take the next piece; a progress bar's carriage return ends a line too."""
        *lines, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._add_line(line)

    def close(self) -> None:
        """Take a last line that no line feed ended."""
        self._add_line(self._rest)
        self._rest = b""

    def _add_line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self.last.append(text)
            if len(self.first) < self._keep:
                self.first.append(text)
