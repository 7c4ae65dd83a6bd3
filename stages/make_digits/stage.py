"""Make all digits datasets: the demo's, and those of the training methods."""

from __future__ import annotations

from dataclasses import dataclass

from stages.make_digits import numbers, tasks


@dataclass(frozen=True)
class Artifacts:
    """The datasets and the folders of their judges."""

    numbers: numbers.Artifacts = numbers.Artifacts()
    tasks: tasks.Artifacts = tasks.Artifacts()


def run(artifacts: Artifacts = Artifacts()) -> None:
    """Write all datasets; the bytes are the same each time."""
    numbers.run(artifacts.numbers)
    tasks.run(artifacts.tasks)
