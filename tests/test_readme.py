"""The README names what is there, and shows what the committed dvc.lock says was produced."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WRITTEN_LATER = ("data/", "demos/", "outputs/", "params/pins/", ".venv")


def recorded(path: str) -> str:
    """Return the md5 of an output in the committed dvc.lock: `make demo` may have changed ours."""
    lock = subprocess.check_output(["git", "show", "HEAD:dvc.lock"], cwd=ROOT, text=True)
    stages = yaml.safe_load(lock)["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}[path]


def test_every_path_it_names_exists():
    named = set(re.findall(r"`([\w.-]+/[\w./-]*|[\w-]+\.(?:yaml|md|lock))`", README))
    assert len(named) > 15
    for path in named:
        assert (ROOT / path).exists() or path.startswith(WRITTEN_LATER), path


def test_every_make_target_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)  ", README)):
        assert f"\n{target}:" in makefile


def test_its_metrics_are_those_of_the_locked_run():
    rows = dict(re.findall(r"^\| (\w+) \| ([\d.]+) \|$", README, re.MULTILINE))
    metrics = {name: json.loads(value) for name, value in rows.items()}
    text = json.dumps(metrics, indent=2, sort_keys=True) + "\n"
    assert hashlib.md5(text.encode()).hexdigest() == recorded("data/evaluate/metrics.json")


def test_its_picture_is_that_of_the_locked_run():
    picture = (ROOT / "docs" / "digits.png").read_bytes()
    assert hashlib.md5(picture).hexdigest() == recorded("data/sample/grid.png")
