"""Refuse a params.yaml that no longer is what `stages.params use` would write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages import launch
from stages.artifacts import write_text
from stages.params import document, pins
from stages.params.places import check_places
from stages.params.resolve import check_resolved


@dataclass(frozen=True)
class Params:
    """No single key: the whole file is the input."""


@dataclass(frozen=True)
class Artifacts:
    """The parameters in; a constant out, so that what depends on it runs again for no edit."""

    params: Path = Path("params.yaml")
    passed: Path = Path("data/params_ok.txt")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Check every key and how they go together, then write the constant.

    Raises:
        FileNotFoundError: A place that a key names is not there, and no stage makes it.
        ValueError: A key is unknown, missing, of a wrong type or range, stale, or cannot be run.
    """
    where = str(artifacts.params)
    config = check_resolved(document.load(artifacts.params), where)
    check_places(config, where)
    if pins.is_pinned(config.model):
        pins.read_pin(config.model)
    write_text(artifacts.passed, "params.yaml passed its check\n")


if __name__ == "__main__":
    launch.main("check_params", run, Params)
