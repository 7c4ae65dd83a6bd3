"""The gym's goals hold metrics to numbers and to each other, and its experiments exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.gym import GOALS, LEARNS, MATRIX, Goal, Result, chosen, gain
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


def test_the_matrix_is_what_each_other_family_can_learn():
    assert chosen(["matrix", "gym_flux2_lora", "gym_sdxl_lora"]) == [*MATRIX, "gym_flux2_lora"]
    assert chosen([]) == list(GOALS)
    assert all(LEARNS in goals for name, goals in GOALS.items() if name in MATRIX)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"val_gain": 0.02, "val_gain_low": 0.015}, "0.0200 ± 0.0050"),
        ({"val_gain": 0.02, "val_gain_low": -0.01}, "0.0200 ± 0.0300 NO"),
        ({"val_gain": 0.02}, "none"),
        ({}, "none"),
    ],
)
def test_a_cell_of_the_matrix_says_the_gain_its_interval_and_a_miss(metrics, said):
    assert gain(Result("gym_sdxl_lora", metrics, 1.0)) == said
