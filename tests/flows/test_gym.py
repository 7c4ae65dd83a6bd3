"""The gym's goals hold metrics to numbers and to each other, and its experiments exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.gym import GOALS, Goal, Result
from tests.flows.workspaces import PROJECT


@pytest.mark.parametrize(
    ("goal", "metrics", "is_met"),
    [
        (Goal("digits", ">=", 0.85), {"digits": 0.85}, True),
        (Goal("digits", ">=", 0.85), {"digits": 0.849}, False),
        (Goal("digits", ">=", 0.85), {}, False),
        (Goal("error", "<=", "error_vae"), {"error": 0.1, "error_vae": 0.1}, True),
        (Goal("error", "<=", "error_vae"), {"error": 0.2, "error_vae": 0.1}, False),
        (Goal("error", "<=", "error_vae"), {"error": 0.0}, False),
        (Goal("gain", ">", 0), {"gain": None}, False),
    ],
)
def test_a_goal_is_met_by_what_is_there_and_reaches_it(goal, metrics, is_met):
    assert goal.is_met(metrics) == is_met


def test_an_experiment_that_failed_misses_every_goal():
    name = "gym_flux2_lora"
    assert Result(name, {}, 1.0).missed() == list(GOALS[name])


def test_every_experiment_of_the_gym_has_goals_and_a_file():
    files = {path.stem for path in Path(PROJECT / "params/experiments").glob("gym_*.yaml")}
    assert files == set(GOALS)
    assert all(GOALS.values())
