"""Wrong input ends in one sentence that names it, exit code 1, and nothing half-written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stages.artifacts import read_json, read_table
from tests.pipeline.workspaces import EXPERIMENT, TOY, Finished, Workspace

pytestmark = pytest.mark.pipeline

USE = ("-m", "stages.params", "use", EXPERIMENT, *TOY)
PASSED = "data/params_ok.txt"  # DVC takes it away before the check that would write it


@pytest.fixture
def restored(workspace: Workspace) -> Iterator[Workspace]:
    """The workspace, afterwards made what it was."""
    yield workspace
    workspace.ok("git", "checkout", "-q", ".")
    workspace.ok("dvc", "checkout", "-q", "--force")


def assert_one_sentence(finished: Finished, stage: str, *named: str) -> None:
    assert finished.code != 0
    assert "Traceback" not in finished.output
    (sentence,) = finished.lines(f"{stage}: ")
    assert all(words in sentence for words in named), sentence


def edit(workspace: Workspace, old: str, new: str) -> Finished:
    path = workspace.root / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return workspace.run("dvc", "repro")


UNKNOWN = ("params.yaml", "training.learning_rat:", "did you mean 'learning_rate'?")
NOWHERE = ("params.yaml", "data.train_path:", "'data/raw/nowhere' is not there", "put it there")


@pytest.mark.parametrize(
    ("run", "named"),
    [
        (lambda w: edit(w, "\ntraining:\n", "\ntraining:\n  learning_rat: 1\n"), UNKNOWN),
        (lambda w: w.run("dvc", "exp", "run", "-S", "+training.learning_rat=1"), UNKNOWN),
        (lambda w: edit(w, "train_path: data/raw/mine", "train_path: data/raw/nowhere"), NOWHERE),
    ],
    ids=["a mistyped key", "a mistyped key of an experiment", "a folder that is not there"],
)
def test_a_wrong_params_yaml_is_refused_before_anything_runs(
    restored: Workspace, run: Callable[[Workspace], Finished], named: tuple[str, ...]
) -> None:
    before = restored.bytes("data")
    refused = run(restored)
    assert_one_sentence(refused, "check_params", *named)
    assert refused.ran() == ["check_params"]
    del before[PASSED]
    assert restored.bytes("data") == before


def test_what_the_disk_cannot_hold_is_refused_before_anything_is_encoded(
    restored: Workspace,
) -> None:
    refused = edit(restored, "\n    keep: 2\n", "\n    keep: 1000000000\n")
    named = ("checkpoints", "will be written", "training.checkpoint.keep", "hardware.preflight")
    said = refused.lines("preflight: ")
    assert refused.code != 0
    assert all(words in said[-1] for words in named), refused.output
    assert refused.ran() == ["check_params", "preflight"]
    assert not (restored.root / "data/preflight_ok.txt").exists()


def test_a_dataset_that_is_not_there_is_refused_before_anything_is_written(
    restored: Workspace,
) -> None:
    before = (restored.root / "params.yaml").read_bytes()
    refused = restored.python(*USE, "data.train_path=data/raw/nowhere")
    assert refused.code == 1
    assert_one_sentence(refused, "params", "data.train_path", "'data/raw/nowhere' is not there")
    assert (restored.root / "params.yaml").read_bytes() == before


def test_a_base_of_another_family_is_refused(restored: Workspace) -> None:
    base = restored.root / "data/raw/sdxl"
    base.mkdir()
    (base / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    given = ("model.pretrained_path=data/raw/sdxl", "model.from_scratch=null")
    assert restored.python(*USE, *given).code == 0
    refused = restored.run("dvc", "repro", "prepare_base")
    named = ("model.pretrained_path", "data/raw/sdxl", "StableDiffusionXLPipeline", "'flux2'")
    assert_one_sentence(refused, "prepare_base", *named)
    assert "python -m stages.prepare_base, exited with 1" in refused.output
    assert not [path.name for path in (restored.root / "data").glob("*base*")]


def test_a_broken_picture_is_set_aside_and_listed(restored: Workspace) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows.append({"image": "broken.png", "caption": "half of one"})

    picture = restored.mine / read_json(restored.mine / "metadata.json")[0]["image"]
    (restored.mine / "broken.png").write_bytes(picture.read_bytes()[:60])
    restored.metadata(change)
    images = (restored.root / "data/images.parquet").read_bytes()
    kept = restored.ok("dvc", "repro", "ingest")
    (said,) = kept.lines("quarantined: ")
    assert said.startswith("quarantined: broken.png (")
    assert (restored.root / "data/images.parquet").read_bytes() == images
    ledger = read_table(restored.root / "data/ledger/ingest.parquet", "ledger").to_pylist()
    (row,) = (row for row in ledger if row["path"] == "broken.png")
    assert row["fate"] == "quarantined"
    assert row["reason"]
