"""Small DVC repositories, and what flows leave in them, in Prefect and among the processes."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil

PROJECT = Path(__file__).parents[2]

# A stage like the trainer: SIGINT makes it save its state and leave; with that state it ends soon.
TRAINER = """
import signal, sys, time
from pathlib import Path

def save(*_):
    time.sleep(0.3)
    print("saving", flush=True)  # nobody may be reading any more
    Path("checkpoint").write_text("step 7")
    sys.exit(130)

signal.signal(signal.SIGINT, save)
resumed = Path("checkpoint").exists()
Path("at_work").touch()
print("resumed" if resumed else "fresh", flush=True)
if not resumed:
    time.sleep(120)
Path("weights").write_text("the same weights")
"""


class Workspace:
    """A Git and DVC repository to run flows in."""

    def __init__(self, root: Path, prefect_home: Path) -> None:
        self.root = root
        self.prefect_home = prefect_home
        self.env = {
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "PREFECT_HOME": str(prefect_home),
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
            "DVC_NO_ANALYTICS": "1",
            "WORKSPACE": str(root),  # how to find the processes that belong here
        }
        self.env.pop("PREFECT_API_URL", None)
        for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
            subprocess.run(command, cwd=root, env=self.env, check=True)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, timeout: float = 90) -> tuple[int, str]:
        process = self.start(*command)
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if belongs(process, str(self.root))]

    def wait_for(self, name: str, seconds: float = 60) -> None:
        wait_until((self.root / name).exists, seconds, f"{name} was not written")

    def wait_until_left(self, seconds: float = 30) -> None:
        """Nothing of a flow, its stages or its server may live on."""
        wait_until(lambda: not self.processes(), seconds, f"still there: {self.processes()}")

    def flow_runs(self) -> list[tuple[str, str]]:
        """(state type, message) of each flow run in Prefect's database, oldest first."""
        return self.query(
            "select r.state_type, s.message from flow_run r"
            " join flow_run_state s on s.id = r.state_id"
            " where r.start_time is not null order by r.start_time"
        )

    def task_runs(self) -> list[tuple[str, str, str]]:
        """(name, state type, message) of the last flow run's task runs, in the order they began."""
        return self.query(
            "select t.name, t.state_type, s.message from task_run t"
            " join task_run_state s on s.id = t.state_id where t.flow_run_id = (select id"
            " from flow_run where start_time is not null order by start_time desc limit 1)"
            " order by t.start_time"
        )

    def query(self, sql: str) -> list:
        with closing(sqlite3.connect(self.prefect_home / "prefect.db")) as database:
            return database.execute(sql).fetchall()


def belongs(process: psutil.Process, root: str) -> bool:
    try:
        running = process.status() != psutil.STATUS_ZOMBIE
        return running and process.environ().get("WORKSPACE") == root
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(claim: Callable[[], bool], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.05)
