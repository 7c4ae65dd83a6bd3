"""Queued experiments share the rows, the checkpoints' folder and MLflow with the repository."""

from __future__ import annotations

import csv
import io
import sqlite3
from contextlib import closing

import pytest

from stages.artifacts import read_json
from tests.pipeline.workspaces import Finished, Workspace, wait_until

pytestmark = pytest.mark.pipeline

RATES = {0.001, 0.003}


@pytest.fixture(scope="module")
def queued(workspace: Workspace) -> Workspace:
    """The workspace after two experiments side by side, as far as their metrics."""
    choices = ",".join(map(str, sorted(RATES)))
    sweep = f"training.learning_rate={choices}"
    workspace.ok("dvc", "exp", "run", "--queue", "-S", sweep, "evaluate")
    workers = workspace.start("dvc", "queue", "start", "--jobs", "2")
    workers.stdout.close()  # they would keep it open for as long as they live
    workers.wait()
    wait_until(lambda: is_done(workspace), 300, "the experiments are not done", pause=3)
    return workspace


def is_done(workspace: Workspace) -> bool:
    status = workspace.ok("dvc", "queue", "status").output
    return "Queued" not in status and "Running" not in status


def shown(workspace: Workspace) -> list[dict[str, str]]:
    """The rows of `dvc exp show` that are experiments."""
    table = workspace.ok("dvc", "exp", "show", "--csv", "--only-changed").output
    return [row for row in csv.DictReader(io.StringIO(table)) if row["Experiment"]]


def test_two_learning_rates_encode_nothing(finished: Workspace, queued: Workspace) -> None:
    for row in shown(queued):
        log = Finished(0, queued.ok("dvc", "queue", "logs", row["Experiment"]).output)
        assert log.ran() == ["check_params", "train", "evaluate"], log.output
        assert len(log.lines("Stage 'encode_")) == 2
        assert log.lines("encoded ") == []  # nor did the trainer miss rows in its worktree
    for kind in ("latents", "text"):
        assert queued.num_rows(kind) == finished.num_rows(kind)


def test_the_table_of_experiments_sets_them_side_by_side(queued: Workspace) -> None:
    rows = shown(queued)
    assert {row["State"] for row in rows} == {"Success"}
    assert {float(row["training.learning_rate"]) for row in rows} == RATES
    assert len({row["val_loss"] for row in rows}) == 2


def test_both_are_runs_in_the_main_repositorys_mlflow(queued: Workspace) -> None:
    assert list(queued.root.rglob("mlflow.db")) == [queued.root / "mlflow.db"]
    query = """
        select p.value, r.status, m.value, r.artifact_uri from runs r
        join params p on p.run_uuid = r.run_uuid and p.key = 'training.learning_rate'
        join latest_metrics m on m.run_uuid = r.run_uuid and m.key = 'val_loss'
    """
    with closing(sqlite3.connect(queued.root / "mlflow.db")) as database:
        runs = database.execute(query).fetchall()
    losses = {float(row["training.learning_rate"]): float(row["val_loss"]) for row in shown(queued)}
    assert {float(rate): round(loss, 6) for rate, _, loss, _ in runs} == losses
    assert {status for _, status, _, _ in runs} == {"FINISHED"}
    home = (queued.root / "mlartifacts").as_uri()
    assert all(place.startswith(home) for _, _, _, place in runs)


def test_an_experiment_in_the_workspace_takes_over_what_a_queued_one_trained(
    queued: Workspace,
) -> None:
    rate = min(RATES)
    choice = f"training.learning_rate={rate}"
    here = queued.ok("dvc", "exp", "run", "-S", choice, "--name", "here", "evaluate")
    assert here.ran() == []
    assert "Stage 'train' is cached - skipping run, checking out outputs" in here.output
    rows = [row for row in shown(queued) if float(row["training.learning_rate"]) == rate]
    assert {row["State"] for row in rows} == {"", "Success"}
    (loss,) = {float(row["val_loss"]) for row in rows}
    assert read_json(queued.root / "data/evaluate/metrics.json")["val_loss"] == loss
