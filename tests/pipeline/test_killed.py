"""`kill -9` in the middle of training, then `dvc repro`: the weights of an undisturbed run."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
import yaml

from tests.pipeline.workspaces import Finished, Workspace

pytestmark = pytest.mark.pipeline

REPRO = ("dvc", "repro", "train")


@pytest.fixture
def untrained(workspace: Workspace) -> Iterator[Workspace]:
    """The workspace as if it had never trained: no lock entry, cached run, checkpoint, MLflow."""
    for folder in ("data/train", ".dvc/cache/runs", ".dvc/diffbase/checkpoints", "mlartifacts"):
        shutil.rmtree(workspace.root / folder, ignore_errors=True)
    (workspace.root / "mlflow.db").unlink(missing_ok=True)
    lock = workspace.lock()
    del lock["stages"]["train"]
    (workspace.root / "dvc.lock").write_text(yaml.dump(lock))
    yield workspace
    workspace.kill_all()


def assert_same_as(finished: Workspace, workspace: Workspace, resumed: Finished) -> None:
    """The same bytes throughout, reached by going on, by one trainer, in one run of MLflow."""
    assert resumed.code == 0, resumed.output
    (line,) = resumed.lines("train: going on after step ")
    assert 0 < int(line.split()[5]) < 200
    trained = workspace.bytes("data/train")
    assert "data/train/weights/diffusion_pytorch_model.safetensors" in trained
    assert trained == finished.bytes("data/train")
    assert workspace.lock() == finished.lock()
    assert workspace.processes() == []
    with closing(sqlite3.connect(workspace.root / "mlflow.db")) as database:
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
        steps = database.execute("select step from metrics where key = 'loss' order by step")
        assert [step for (step,) in steps] == list(range(20, 201, 20))


def test_kill_9_of_the_trainer_alone(finished: Workspace, untrained: Workspace) -> None:
    dvc, trainer = untrained.train_until_a_checkpoint(*REPRO)
    trainer.kill()
    output, _ = dvc.communicate(timeout=60)
    assert dvc.returncode != 0
    assert "failed to reproduce 'train'" in output
    assert not (untrained.root / "data/train/summary.json").exists()
    assert_same_as(finished, untrained, untrained.run(*REPRO))


def test_kill_9_of_dvc_alone(finished: Workspace, untrained: Workspace) -> None:
    """The trainer lives on; it is frozen until the next one has found it, so that they do meet."""
    dvc, orphan = untrained.train_until_a_checkpoint(*REPRO)
    orphan.suspend()
    dvc.kill()
    dvc.wait()
    assert untrained.trainers() == [orphan]
    successor = untrained.start(*REPRO)
    assert successor.stdout is not None
    said = []
    for line in successor.stdout:
        said.append(line)
        if f"process {orphan.pid}" in line:
            orphan.resume()
    code = successor.wait()
    assert [line for line in said if "is gone: asking it to save and exit" in line], said
    assert_same_as(finished, untrained, Finished(code, "".join(said)))
