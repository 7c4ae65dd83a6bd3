"""The stage as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "lance", "mlflow", "prefect", "dvc", "scipy", "matplotlib"}


def test_the_stage_imports_nothing_heavy() -> None:
    code = "import sys, json, stages.report_dataset.stage; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert not HEAVY & set(json.loads(result.stdout))


def test_a_stage_before_that_has_not_run_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {train_path: nowhere}\n")
    result = subprocess.run(
        [sys.executable, "-m", "stages.report_dataset"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("report_dataset: data/reports/ingest.json is not there")
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_templates_are_installed_with_the_package() -> None:
    assert '"stages.report_dataset" = ["templates/*"]' in (ROOT / "pyproject.toml").read_text()
