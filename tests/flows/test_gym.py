"""The gym's goals hold metrics to numbers and to each other, and its experiments exist."""

from __future__ import annotations

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import pytest

from flows.gym import GOALS, LEARNS, MATRIX, PREPARED, Goal, Gym, Result, chosen, gain
from tests.flows.workspaces import PROJECT, Workspace

GRAPH = """
stages:
  encode_images: {cmd: 'true'}
  encode_captions: {cmd: 'true'}
  sample: {cmd: 'true'}
  evaluate: {cmd: python evaluate.py, params: [experiment.name], outs: [data/evaluate/metrics.json]}
  export: {cmd: mkdir data/export && touch data/export/model_index.json, outs: [data/export]}
"""
MAKERS = """
stages:
  make_digits:
    wdir: ../..
    cmd: 'true'
    outs:
      - data/raw/digits
      - data/raw/digits_base
      - data/raw/digits_judge
      - data/raw/digits_style
      - data/raw/digits_style_judge
"""
EVALUATE = """
import json
from pathlib import Path
name = Path("params.yaml").read_text()
assert Path("data/bases/digits_flux2/model_index.json").exists()
if "name: gym_flux2_full" in name:
    raise SystemExit("the disk is full")
metrics = {"digit_accuracy": 0.9, "style_agreement": 0.8, "val_gain": 0.2, "val_gain_low": 0.1}
Path("data/evaluate").mkdir(parents=True, exist_ok=True)
Path("data/evaluate/metrics.json").write_text(json.dumps(metrics))
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A repository whose experiments take no time; one of them fails."""
    (tmp_path / "gym").mkdir()
    workspace = Workspace(tmp_path / "gym", tmp_path / "unused")
    shutil.copytree(PROJECT / "params", workspace.root / "params")
    shutil.copy(PROJECT / "params.yaml", workspace.root)
    workspace.write("dvc.yaml", GRAPH)
    workspace.write("data/raw/dvc.yaml", MAKERS)
    workspace.write("evaluate.py", EVALUATE)
    workspace.write(".gitignore", "/demos/\n")
    workspace.write(".dvcignore", "demos\n")
    for command in (["add", "--all"], ["commit", "-qm", "a project"]):
        identity = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run([*identity, *command], cwd=workspace.root, check=True)
    return workspace


def test_data_is_prepared_for_one_experiment_at_a_time(tmp_path: Path, monkeypatch):
    busy, was_free = Lock(), []

    def run(folder: Path, *arguments: str, log: Path | None) -> None:
        if arguments[-2:] == PREPARED:
            was_free.append(busy.acquire(blocking=False))
            time.sleep(0.2)
            if was_free[-1]:
                busy.release()

    monkeypatch.setattr("flows.gym.run", run)
    gym = Gym(is_quiet=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(gym._reproduce, [tmp_path / "a", tmp_path / "b"], ["sample"] * 2))
    assert was_free == [True, True]


def test_experiments_run_side_by_side_and_one_that_fails_names_its_log(workspace: Workspace):
    code, said = workspace.run("flows.gym", "--jobs", "2", "gym_flux2_full", "gym_flux2_lora")
    assert code == 1
    assert "gym: gym_flux2_full failed; demos/gym_flux2_full.log says why" in said
    log = workspace.root / "demos/gym_flux2_full.log"
    assert "the disk is full" in log.read_text()
    rows = [line for line in said.splitlines() if "style_agreement >= 0.9" in line]
    assert ["none" in row for row in rows[-2:]] == [True, False], "shown again for each result"
    assert "0.800" in rows[-1]
    assert "NO" in rows[-1]


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
