"""Every experiment can be run as it stands: its files compose, and no rule is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.params.resolve import settled

EXPERIMENTS = sorted((Path(__file__).parents[2] / "params" / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_whole_and_named_as_its_file(path: Path) -> None:
    assert settled(path).experiment.name.replace("-", "_") == path.stem
