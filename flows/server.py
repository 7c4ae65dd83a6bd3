"""A Prefect server of one's own, on the loopback interface, for as long as this process lives."""

from __future__ import annotations

import atexit
import http.client
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.process import Supervised
from flows.signals import STOP_REQUEST

START_SECONDS = 120.0  # the very first start also makes the database
STOP_SECONDS = 5.0
RECORD_SECONDS = 10.0
LOG = Path(".dvc/tmp/prefect-server.log")


@contextmanager
def server(*, schedules: bool) -> Iterator[str]:
    """Give the URL of Prefect's API: the configured one, else that of a server started here.

    A server started here keeps its history in Prefect's own SQLite database. It stops when this
    process ends, however that happens, and not before: the last events are sent on the way out.

    Args:
        schedules: fire the schedules of deployments, which a single flow does not need.

    Raises:
        ValueError: the configured server does not answer, or one's own does not start.
        KeyboardInterrupt: a signal asked to stop meanwhile.
    """
    configured = PREFECT_API_URL.value()
    if configured:
        if not answers(configured):
            raise ValueError(f"PREFECT_API_URL {configured!r} does not answer: correct or unset it")
        yield configured
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    process = start(port, schedules)
    with STOP_REQUEST.reaching(process):
        wait_until_healthy(process, url)
    with temporary_settings({PREFECT_API_URL: url}):
        yield url


def start(port: int, schedules: bool) -> Supervised:
    """Start the server; it stops at exit, after Prefect has sent what it had queued."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--analytics-off"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if not schedules:
        command += ["--no-scheduler", "--no-late-runs"]
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        process = Supervised("the Prefect server", command, grace_seconds=STOP_SECONDS, output=log)
    atexit.register(stop, process)
    return process


def stop(process: Supervised) -> None:
    """Stop the server and wait until it is gone."""
    process.stop()
    process.wait()


def wait_until_healthy(process: Supervised, url: str) -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while process.running() and time.monotonic() < deadline:
        if answers(url):
            return
        time.sleep(0.05)
    if STOP_REQUEST.signal is not None:
        raise KeyboardInterrupt
    raise ValueError(f"the Prefect server did not start: {LOG} says why")


def wait_until_recorded(task_runs: Iterable[State[Any]]) -> None:
    """Wait until the server has noted how each task run ended, for it forgets its queue at its end.

    If a stopped flow finds no server, that one went with the process that served the flow: this
    process ends too, instead of trying for minutes to report.
    """
    if STOP_REQUEST.signal is not None and not answers(str(PREFECT_API_URL.value())):
        os._exit(STOP_REQUEST.exit_code)
    ids = [run_id for state in task_runs if (run_id := state.state_details.task_run_id)]
    wanted = TaskRunFilter(id=TaskRunFilterId(any_=ids))
    deadline = time.monotonic() + RECORD_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs = client.read_task_runs(task_run_filter=wanted)
            if sum(run.state is not None and run.state.is_final() for run in runs) == len(ids):
                return
            time.sleep(0.05)


def answers(url: str) -> bool:
    """Tell whether something answers at the URL of an API, be it with an error."""
    try:
        with urlopen(f"{url}/health", timeout=5):
            return True
    except HTTPError:
        return True
    except (OSError, http.client.HTTPException):
        return False


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
