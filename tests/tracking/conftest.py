"""An MLflow store in a folder of its own, with what a training tells of itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stages.artifacts import write_table
from stages.mlflow_store import open_client
from stages.params.tracking import Tracking
from stages.tables import to_table

PARAMS = """
experiment: {name: toy, output_dir: outputs/toy, seed: 1}
training: {steps: 20, objective: {shift: 1.0, type: flow_matching}, ema: null}
data: {train_path: data/raw/toy, store: /somewhere, cache_dir: null}
sample: {prompts: [{prompt: seven, width: 32}]}
tracking: {mlflow: true}
"""


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs, which takes seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def settings(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """The section `tracking`; the working folder holds params.yaml and data/images.parquet."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, "mlflow.db")
    Path("params.yaml").write_text(PARAMS)
    write_table(Path("data/images.parquet"), to_table([], "images"), "images")
    return Tracking(uri="sqlite:///mlflow.db", system_metrics=False)
