"""Nothing is reported to anybody unless the user asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.workspaces import PROJECT

ASKED = ("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "DVC_NO_ANALYTICS", "CI")
SETTING = "prefect.settings.get_current_settings().server.analytics_enabled"


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        (None, f"import flows, prefect.settings; print({SETTING})"),
        (PROJECT, f"import prefect.settings; print({SETTING})"),  # prefect.toml, for any command
    ],
)
def test_prefect_reports_nothing(tmp_path: Path, folder: Path | None, code: str) -> None:
    assert run(folder or tmp_path, code) == "False"


def test_importing_flows_silences_dvc_and_prefects_client_too(tmp_path: Path) -> None:
    code = "import flows, os; print(os.environ['DVC_NO_ANALYTICS'], os.environ['DO_NOT_TRACK'])"
    assert run(tmp_path, code) == "1 1"


def run(folder: Path, code: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ASKED}
    env = {**kept, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=True
    ).stdout.strip()
