"""Run the experiments that show that each method learns, and print what they reached."""

from __future__ import annotations

import argparse
import json
import operator
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flows.demo import METRICS, run, worktree

BASES = Path("data/bases")  # in an experiment's worktree: what the demo of that name exported
EXPORT = Path("data/export")
WIDTH = 110  # of the table, columns
SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt}


@dataclass(frozen=True)
class Goal:
    """What a metric of an experiment must reach."""

    metric: str
    sign: str  # one of SIGNS
    value: float | str  # or the metric that it is compared with

    def is_met(self, metrics: Mapping[str, float]) -> bool:
        """Say whether it does; a metric that is missing does not."""
        value = metrics.get(self.value) if isinstance(self.value, str) else self.value
        found = metrics.get(self.metric)
        if found is None or value is None:
            return False
        return bool(SIGNS[self.sign](found, value))

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:g}"
        return f"{self.metric} {self.sign} {value}"


@dataclass(frozen=True)
class Result:
    """What came out of an experiment."""

    name: str
    metrics: Mapping[str, float]  # none where it failed
    seconds: float

    def missed(self) -> list[Goal]:
        """Return the goals that it does not reach."""
        return [goal for goal in GOALS[self.name] if not goal.is_met(self.metrics)]


EDGES = (Goal("edge_agreement", ">=", 0.8), Goal("edge_agreement_gain", ">=", 0.3))
STYLE = (Goal("digit_accuracy", ">=", 0.85), Goal("style_agreement", ">=", 0.9))
GOALS: Mapping[str, tuple[Goal, ...]] = {
    "gym_flux2_lora": STYLE,
    "gym_flux2_full": STYLE,
    "gym_flux2_dreambooth": (
        Goal("style_agreement_hand", ">=", 0.85),
        Goal("style_agreement_plain", ">=", 0.85),
    ),
    "gym_flux2_dreambooth_no_prior": (Goal("style_agreement_plain", "<=", 0.85),),
    "gym_flux2_controlnet": EDGES,
    "gym_flux2_control_lora": EDGES,
    "gym_flux2_kontext": (
        Goal("digit_accuracy_add_one", ">=", 0.85),
        Goal("digit_accuracy_swap", ">=", 0.85),
    ),
    "gym_flux2_fill": (
        Goal("filled_digit_accuracy", ">=", 0.85),
        Goal("kept_error", "<=", "kept_error_vae"),
    ),
}


def main() -> int:
    """Run all experiments, or those named; return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m flows.gym", description=__doc__)
    parser.add_argument("experiments", nargs="*", help="names of files in params/experiments")
    names = parser.parse_args().experiments or sorted(GOALS)
    if unknown := sorted(set(names) - set(GOALS)):
        print(f"gym: there is no {unknown[0]!r}; use some of {sorted(GOALS)!r}", file=sys.stderr)  # noqa: T201
        return 1
    results = []
    for name in names:
        results.append(train(name))
        show(results)
    return int(any(result.missed() for result in results))


def train(name: str) -> Result:
    """Reproduce an experiment in a worktree of its own, and the base it begins with before."""
    start = time.monotonic()
    base = f"digits_{name.split('_')[1]}"  # of the same family
    try:
        demo = worktree(base)
        run(demo, "-m", "dvc", "repro")
        folder = worktree(name, lambda folder: supply(demo / EXPORT, folder / BASES / base))
        run(folder, "-m", "dvc", "repro")
    except subprocess.CalledProcessError:  # it has said why
        return Result(name, {}, time.monotonic() - start)
    metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    return Result(name, metrics, time.monotonic() - start)


def supply(exported: Path, base: Path) -> None:
    """Put a copy of what a demo exported where an experiment's parameters name its base."""
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(exported, base)


def show(results: Iterable[Result]) -> None:
    """Print the table of what was reached."""
    table = Table("experiment", "goal", "reached", "met", "seconds", title="gym")
    for result in results:
        for place, goal in enumerate(GOALS[result.name]):
            value = result.metrics.get(goal.metric)
            table.add_row(
                result.name if place == 0 else "",
                str(goal),
                "none" if value is None else f"{value:.3f}",
                "yes" if goal.is_met(result.metrics) else "NO",
                f"{result.seconds:.0f}" if place == 0 else "",
            )
    Console(width=WIDTH).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
