"""The stages before encoding start fast: as processes of their own, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIGHT = [
    "stages.make_digits",
    "stages.generate_class_images.stage",
    "stages.make_digits.tasks",
    "stages.ingest.stage",
    "stages.check_captions.stage",
    "stages.bucket.stage",
    "stages.report_dataset.stage",
    "stages.pixels",
]
HEAVY = {"torch", "transformers", "lance", "mlflow", "prefect", "dvc", "scipy", "pandas"}


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_stage_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    allowed = (
        {"scipy", "pandas"} if module.startswith("stages.make_digits") else set()
    )  # by scikit-learn
    assert not HEAVY & set(json.loads(result.stdout)) - allowed


@pytest.mark.parametrize("name", ["ingest", "check_captions", "bucket"])
def test_a_failed_stage_is_one_line_and_exit_code_1(name: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {train_path: nowhere}\n")
    result = subprocess.run(
        [sys.executable, "-m", f"stages.{name}"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"{name}: ")
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
