"""Whoever clones the repository and has the same data gets the same results, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.workspaces import Finished, Workspace, wait_until

pytestmark = pytest.mark.pipeline


@pytest.fixture
def clone(finished: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """What git has of the finished workspace, lock files included, and the data it does not."""
    finished.ok("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    shutil.copytree(finished.mine, clone.mine)
    yield clone
    clone.kill_all()


def test_a_fresh_clone_killed_in_mid_training_reproduces_every_byte(
    finished: Workspace, clone: Workspace
) -> None:
    dvc, trainer = clone.train_until_a_checkpoint("dvc", "repro")
    os.killpg(dvc.pid, signal.SIGKILL)
    output, _ = dvc.communicate(timeout=60)
    wait_until(lambda: not clone.processes(), 10, f"{trainer} is alive", pause=0.01)
    assert not (clone.root / "data/train/summary.json").exists()
    before = ["check_params", "data/raw/dvc.yaml:make_digits", "prepare_base"]
    before += ["generate_class_images", "ingest", "check_captions", "bucket", "report_dataset"]
    before += ["make_conditions", "preflight", "encode_images", "encode_captions", "train"]
    assert Finished(dvc.returncode, output).ran() == before
    again = clone.ok("dvc", "repro")
    assert again.lines("train: going on after step ")
    assert again.ran() == ["train", "sample", "evaluate", "export"]
    assert clone.ok("git", "diff", "--stat").output == ""
    assert clone.bytes("data") == finished.bytes("data")
    for lock in ("dvc.lock", "data/raw/dvc.lock"):
        assert (clone.root / lock).read_bytes() == (finished.root / lock).read_bytes()
