"""Serve the reproduce flow on a schedule, with a Prefect server of its own if none is set up."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import TerminationSignal
from prefect.runner import Runner
from prefect.schedules import Cron
from pydantic import ValidationError

from flows.dvc_graph import plan
from flows.reproduce import GRACE_SECONDS, reproduce
from flows.server import server
from flows.signals import STOP_REQUEST, say

LOCK = Path(".dvc/tmp/flows.serve.lock")
POLL = 0.2  # seconds between two looks at whether a signal came


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it; the exit code is 1, or 128 + that signal."""
    options = parse(arguments)
    try:
        check_schedule(options.cron, options.timezone)
        plan(options.targets)  # a graph that cannot be read is told now, not at night
        with only_one(), STOP_REQUEST.installed(), server(schedules=True) as url:
            name, dashboard = deployment_name(), url.removesuffix("/api")
            say(f"serving {name!r} at {options.cron!r} ({options.timezone}), see {dashboard}")
            runner = Runner(name, limit=1)  # DVC would refuse a second run beside it
            runner.add_flow(
                reproduce,
                name,
                schedule=Cron(options.cron, timezone=options.timezone),
                parameters={"targets": options.targets, "grace_seconds": options.grace},
            )
            asyncio.run(serve(runner))
    except ValueError as error:
        say(str(error))
        return 1
    except (KeyboardInterrupt, TerminationSignal):
        pass
    return STOP_REQUEST.exit_code


async def serve(runner: Runner) -> None:
    """Run what is due until a signal comes, then cancel the run that is under way, if any."""
    serving = asyncio.create_task(runner.start())
    while not (runner.started or serving.done()):
        await asyncio.sleep(POLL)
    with STOP_REQUEST.installed():  # over the runner's own handler, which lets a run go on
        while STOP_REQUEST.signal is None and not serving.done():
            await asyncio.sleep(POLL)
        told = set()
        while runs := multiprocessing.active_children():  # a stage's grace, not Prefect's 30 s
            for run in runs:
                if run.pid not in told:
                    told.add(run.pid)
                    run.terminate()
            await asyncio.sleep(POLL)
        if not serving.done():
            await runner.astop()
        await serving


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__)
    parser.add_argument("targets", nargs="*", help="stages to bring up to date (all of dvc.yaml)")
    parser.add_argument("--cron", required=True, help='when, such as "0 3 * * *" for every night')
    parser.add_argument("--timezone", default="UTC", help="of --cron (default: %(default)s)")
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help="for a stage to save its state when a run is cancelled (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def check_schedule(cron: str, timezone: str) -> None:
    """Refuse what is no schedule.

    Raises:
        ValueError: says which of the two it is.
    """
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        (wrong, *_) = error.errors()[0]["loc"]
        given, example = {
            "cron": (cron, '"0 3 * * *" is every day at three'),
            "timezone": (timezone, '"Europe/Paris" is one'),
        }[str(wrong)]
        raise ValueError(
            f"--{wrong} {given!r} is not a {wrong} that Prefect knows: {example}"
        ) from error


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the repository's lock; the kernel releases it when this process ends.

    Raises:
        ValueError: another process serves this repository.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ValueError(
                f"process {lock.read().strip()} serves this repository already: stop that one first"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def deployment_name() -> str:
    """Name the deployment after this folder's path: several clones may share a Prefect server."""
    folder = Path.cwd().resolve()
    return f"{folder.name}-{hashlib.sha256(bytes(folder)).hexdigest()[:8]}"


if __name__ == "__main__":
    sys.exit(main())
