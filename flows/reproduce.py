"""Run DVC's own graph as a Prefect flow: a task run a stage, DVC's verdict as its message."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Completed, Failed

from flows import dvc_commands, verdicts
from flows.dvc_graph import Stage, plan
from flows.server import server, wait_until_recorded
from flows.signals import STOP_REQUEST, end_with_parent, say

GRACE_SECONDS = 60.0  # for a stage to save its state after SIGINT


@flow(name="reproduce")
def reproduce(targets: list[str] | None = None, grace_seconds: float = GRACE_SECONDS) -> State[Any]:
    """Bring the targets up to date as `dvc repro` would, and stop at the first failure.

    Args:
        targets: stages, as `dvc repro` takes them; none means all of dvc.yaml.
        grace_seconds: how long a stage may take to save its state when the flow is stopped.
    """
    return follow_graph(targets or (), grace_seconds)


def follow_graph(targets: Sequence[str], grace_seconds: float) -> State[Any]:
    """Read the graph and go through it, heeding signals.

    Not part of the flow's own function: that one travels to a served run's process by value, and
    a copy of STOP_REQUEST with it.
    """
    with STOP_REQUEST.installed():
        end_with_parent()
        try:
            stages = plan(targets)
        except ValueError as error:
            return Failed(message=str(error))
        states = go_through(stages, grace_seconds)
        wait_until_recorded(states.values())
        return conclude(stages, states)


def go_through(stages: Sequence[Stage], grace_seconds: float) -> dict[str, State[Any]]:
    """Bring the stages up to date in turn, until one fails or a signal asks to stop."""
    states: dict[str, State[Any]] = {}
    unchanged = dvc_commands.unchanged([stage.addressing for stage in stages], grace_seconds)
    for stage in stages:
        if STOP_REQUEST.signal is not None:
            break
        state = bring_up_to_date.with_options(name=stage.name, task_run_name=stage.name)(
            stage.addressing,
            grace_seconds,
            known_unchanged=stage.addressing in unchanged,
            return_state=True,
            wait_for=[states[name] for name in stage.upstream if name in states],
        )
        states[stage.addressing] = state
        if not state.is_completed():
            break
        if state.message != verdicts.CACHED:
            unchanged = set()  # something was written, so what DVC said before may no longer hold
    return states


def conclude(stages: Sequence[Stage], states: dict[str, State[Any]]) -> State[Any]:
    """Return the flow's own state, given those of the stages that it came to."""
    for stage in stages:
        state = states.get(stage.addressing)
        if state is None or state.is_cancelled():
            return Cancelled(message=f"stopped by {STOP_REQUEST.name}; the next run resumes")
        if not state.is_completed():
            return Failed(message=f"stage {stage.name!r} failed: {state.message}")
    counts = Counter(state.message for state in states.values())
    return Completed(message=", ".join(f"{number} {said}" for said, number in counts.items()))


@task(cache_policy=NO_CACHE)
def bring_up_to_date(addressing: str, grace_seconds: float, *, known_unchanged: bool) -> State[Any]:
    """Let DVC decide about one stage, and do what it decides; Prefect itself caches nothing."""
    if known_unchanged:  # by DVC, a moment ago: asking once more would cost a start of DVC
        return Completed(message=verdicts.CACHED)
    code, transcript = dvc_commands.repro(addressing, grace_seconds)
    if code == 0:
        said = verdicts.verdict(addressing, transcript.first)
        return Completed(message=said or " ".join(transcript.first[:1]))
    if STOP_REQUEST.signal is not None:
        return Cancelled(message=f"stopped by {STOP_REQUEST.name}")
    return Failed(message=verdicts.complaint([*transcript.last]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow here and now; the exit code is 0, 1, or 128 + the signal that stopped it."""
    parser = argparse.ArgumentParser(prog="python -m flows.reproduce", description=__doc__)
    parser.add_argument("targets", nargs="*", help="stages to bring up to date (all of dvc.yaml)")
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help="for a stage to save its state when the flow is stopped (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        plan(options.targets)  # a graph that cannot be read is told before a server is started
        with STOP_REQUEST.installed(), server(schedules=False):
            state = reproduce(options.targets, options.grace, return_state=True)
    except ValueError as error:
        say(str(error))
        return 1
    except (KeyboardInterrupt, TerminationSignal):
        return STOP_REQUEST.exit_code
    if state.is_completed():
        return 0
    say(str(state.message))
    return STOP_REQUEST.exit_code if state.is_cancelled() else 1


if __name__ == "__main__":
    sys.exit(main())
