"""Start the processes of a training on this machine, and end them together.

The environment is torchrun's. Its agent is not used because it kills what has not ended 30 seconds
after a signal, which is too short for the checkpoint of a large model, and reports by a traceback.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from stages.train.signals import SIGNALS, Stopping

LOST = 75  # exit code of a process that only lost another one (EX_TEMPFAIL)
STOPPED = tuple(128 + number for number in SIGNALS)  # exit codes after saving
POLL_SECONDS = 0.1
GRACE_SECONDS = 20.0  # for the others to end after one has died, before they are killed


def train_together(num: int, threads: int, kept: Sequence[int], resumed_from: Path) -> None:
    """Run `num` processes to their end.

    Args:
        num: `hardware.processes`.
        threads: CPU threads of each.
        kept: Handles of lock files, which stay locked until the last process has gone.
        resumed_from: The folder of the checkpoints, for the message.

    Raises:
        SystemExit: A signal came, and a checkpoint is saved.
        ValueError: A process failed or died; the others are ended.
    """
    with tempfile.TemporaryDirectory(prefix="diffbase-") as folder, Stopping() as stopping:
        environment = _environment(num, threads)
        command = [sys.executable, "-m", "stages.train.rank", folder]
        ranks = [
            subprocess.Popen(
                command, env=environment | {"RANK": str(i), "LOCAL_RANK": str(i)}, pass_fds=kept
            )
            for i in range(num)
        ]
        failed = _watch(ranks, stopping)
        if stopping.signal is not None:
            raise SystemExit(stopping.exit_code)
        said = [path.read_text() for path in sorted(Path(folder).iterdir())]
        if said:
            raise ValueError("; ".join(dict.fromkeys(said)))
        if failed is not None:
            raise ValueError(_obituary(failed, ranks, resumed_from))
        if codes := {rank.returncode for rank in ranks} - {0}:
            raise SystemExit(codes.pop())


def follow_parent() -> None:
    """Make the end of the process that started this one, by `kill -9` too, count as SIGTERM."""
    parent = os.getppid()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def _environment(num: int, threads: int) -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return os.environ | {
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
    }


def _watch(ranks: Sequence[subprocess.Popen[bytes]], stopping: Stopping) -> int | None:
    """Wait for all; pass a signal on, and end the others once one has died. Return which did."""
    failed, deadline, is_told = None, float("inf"), False
    while any(rank.poll() is None for rank in ranks):
        if stopping.signal is not None and not is_told:
            _signal(ranks, stopping.signal)
            is_told = True
        if failed is None and (failed := _failed(ranks)) is not None:
            _signal(ranks, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            _signal(ranks, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    again = _failed(ranks)  # one that died by itself says more than one that lost it
    return again if failed is None or ranks[failed].returncode == LOST else failed


def _failed(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Return a process that has failed, rather one that did so by itself."""
    codes = {place: rank.poll() for place, rank in enumerate(ranks)}
    failed = [place for place, code in codes.items() if code not in (None, 0, *STOPPED)]
    return min(failed, key=lambda place: codes[place] == LOST, default=None)


def _signal(ranks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        rank.send_signal(number)  # to one that has ended it does nothing


def _obituary(failed: int, ranks: Sequence[subprocess.Popen[bytes]], resumed_from: Path) -> str:
    code = ranks[failed].returncode
    end = (
        f"was ended by {signal.Signals(-code).name}"
        if code < 0
        else f"ended with exit code {code}, for the reason above"
    )
    return (
        f"process {failed} of {len(ranks)} (pid {ranks[failed].pid}) {end}, and the others were "
        f"ended with it: run again to resume from {resumed_from}"
    )
