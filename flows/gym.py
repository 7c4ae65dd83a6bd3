"""Run the experiments that show that each method learns, and print what they reached."""

from __future__ import annotations

import argparse
import json
import operator
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

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


# the loss of the same pictures under the same noise fell, and not by chance
LEARNS = Goal("val_gain_low", ">", 0)
EDGES = (Goal("edge_agreement", ">=", 0.8), Goal("edge_agreement_gain", ">=", 0.3), LEARNS)
STYLE = (Goal("digit_accuracy", ">=", 0.85), Goal("style_agreement", ">=", 0.9), LEARNS)
METHODS = ("lora", "full", "dreambooth", "controlnet")
OF_FLUX = ("control_lora", "kontext", "fill")
SHORT = {"sdxl": METHODS, "flux1": METHODS + OF_FLUX, "sd35": METHODS}  # FLUX.2 is trained in full
MATRIX = [f"gym_{family}_{method}" for family, methods in SHORT.items() for method in methods]
SHOWN = ("sample", "evaluate")  # stages that a short experiment ends with; others export, too
PREPARED = ("encode_images", "encode_captions")  # with all before them, alike in many experiments
GOALS: Mapping[str, tuple[Goal, ...]] = {
    "gym_flux2_lora": STYLE,
    "gym_flux2_full": STYLE,
    "gym_flux2_dreambooth": (
        Goal("digit_accuracy", ">=", 0.85),
        Goal("style_agreement_hand", ">=", 0.85),
        Goal("style_agreement_plain", ">=", 0.85),
        LEARNS,
    ),
    "gym_flux2_dreambooth_no_prior": (Goal("style_agreement_plain", "<=", 0.85),),
    "gym_flux2_controlnet": EDGES,
    "gym_flux2_control_lora": EDGES,
    "gym_flux2_kontext": (
        Goal("digit_accuracy_add_one", ">=", 0.85),
        Goal("digit_accuracy_swap", ">=", 0.85),
        LEARNS,
    ),
    "gym_flux2_fill": (
        Goal("filled_digit_accuracy", ">=", 0.85),
        Goal("kept_error", "<=", "kept_error_vae"),
        LEARNS,
    ),
    **dict.fromkeys(MATRIX, (LEARNS,)),
}
FAMILIES = {"flux2": "FLUX.2", "sdxl": "SDXL", "flux1": "FLUX.1", "sd35": "SD3.5"}  # columns


def main() -> int:
    """Run all experiments, or those named; return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m flows.gym", description=__doc__)
    parser.add_argument(
        "experiments",
        nargs="*",
        help="names of files in params/experiments; matrix: the short ones",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="experiments at a time; of two and more output is kept"
    )
    asked = parser.parse_args()
    names = chosen(asked.experiments)
    if unknown := sorted(set(names) - set(GOALS)):
        known = ["matrix", *sorted(GOALS)]
        print(f"gym: there is no {unknown[0]!r}; use some of {known!r}", file=sys.stderr)  # noqa: T201
        return 1
    results: list[Result] = []
    gym = Gym(is_quiet=asked.jobs > 1)
    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(gym.prepare, dict.fromkeys(map(base_of, names))))
        for result in pool.map(gym.train, names):
            results.append(result)
            show(results)
    return int(any(result.missed() for result in results))


def chosen(asked: Sequence[str]) -> list[str]:
    """Return the experiments that are asked for, each once; nothing is all of them."""
    names = [name for each in asked for name in (MATRIX if each == "matrix" else [each])]
    return list(dict.fromkeys(names)) or list(GOALS)


def base_of(name: str) -> str:
    """Return the demo that makes the base of an experiment: the one of its family."""
    return f"digits_{name.split('_')[1]}"


@dataclass
class Gym:
    """Reproduces bases and experiments, each in a worktree of its own, some of them at a time.

    Attributes:
        is_quiet: Whether what they print goes to `demos/NAME.log`.
        demos: Where a base has been made, by its name.
        git: Held by who makes a worktree.
        data: Held by who prepares data. DVC 3.67 takes what another process is writing to its run
            cache about the same stage for damaged and deletes it, so that the other one fails.
    """

    is_quiet: bool
    demos: dict[str, Path] = field(default_factory=dict)
    git: Lock = field(default_factory=Lock)
    data: Lock = field(default_factory=Lock)

    def prepare(self, base: str) -> None:
        """Make a base; when that fails, it has said why and is not in `demos`."""
        try:
            with self.git:
                folder = worktree(base)
            self._reproduce(folder, "export")
        except subprocess.CalledProcessError:
            return
        self.demos[base] = folder

    def train(self, name: str) -> Result:
        """Reproduce an experiment whose base is prepared."""
        start, base = time.monotonic(), base_of(name)
        if base not in self.demos:
            return Result(name, {}, 0.0)
        exported = self.demos[base] / EXPORT
        try:
            with self.git:
                folder = worktree(name, lambda folder: supply(exported, folder / BASES / base))
            self._reproduce(folder, *SHOWN, *(() if name in MATRIX else ("export",)))
        except subprocess.CalledProcessError:  # it has said why
            return Result(name, {}, time.monotonic() - start)
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        return Result(name, metrics, time.monotonic() - start)

    def _reproduce(self, folder: Path, *targets: str) -> None:
        log = folder.with_name(f"{folder.name}.log") if self.is_quiet else None
        try:
            with self.data:
                run(folder, "-m", "dvc", "repro", *PREPARED, log=log)
            run(folder, "-m", "dvc", "repro", *targets, log=log)
        except subprocess.CalledProcessError:
            if log is not None:
                print(f"gym: {folder.name} failed; {log} says why", file=sys.stderr)  # noqa: T201
            raise


def supply(exported: Path, base: Path) -> None:
    """Put a copy of what a demo exported where an experiment's parameters name its base."""
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(exported, base)


def show(results: Sequence[Result]) -> None:
    """Print what was reached of each goal, and what each family learned by each method."""
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
    Console(width=WIDTH).print(table, matrix(results))


def matrix(results: Iterable[Result]) -> Table:
    """Make the table of how far each method lowered the validation loss of each family."""
    cells: dict[str, dict[str, str]] = {}
    for result in results:
        _, family, method = result.name.split("_", 2)
        cells.setdefault(method, {})[family] = gain(result)
    table = Table("method", *FAMILIES.values(), title="validation loss, base minus trained")
    for method, row in cells.items():
        table.add_row(method, *(row.get(family, "") for family in FAMILIES))
    return table


def gain(result: Result) -> str:
    """Say by how much the validation loss fell, and how far its interval reaches to each side."""
    mean, low = result.metrics.get("val_gain"), result.metrics.get("val_gain_low")
    if mean is None or low is None:
        return "none"
    return f"{mean:.4f} ± {mean - low:.4f}" + ("" if LEARNS.is_met(result.metrics) else " NO")


if __name__ == "__main__":
    raise SystemExit(main())
