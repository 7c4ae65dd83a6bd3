"""What a second `dvc repro` does again: nothing, or only what a change touches."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stages.artifacts import read_json, read_table
from tests.pipeline.workspaces import Workspace, write_picture

pytestmark = pytest.mark.pipeline

ENCODERS = ("encode_images", "encode_captions")


def test_a_second_repro_says_that_everything_is_up_to_date(finished: Workspace) -> None:
    again = finished.ok("dvc", "repro")
    assert again.ran() == []
    assert again.output.splitlines()[-1] == "Data and pipelines are up to date."
    assert finished.ok("git", "status", "--porcelain").output == ""


def test_a_dataset_of_ones_own_was_trained_on(finished: Workspace) -> None:
    images = read_table(finished.root / "data/images.parquet", "images")
    given = read_json(finished.mine / "metadata.json")
    assert sorted(images["path"].to_pylist()) == sorted(row["image"] for row in given)
    counts = set(images["split"].to_pylist())
    assert counts == {"train", "validation"}
    summary = read_json(finished.root / "data/train/summary.json")
    assert summary["num_images"] == images["split"].to_pylist().count("train")
    assert (finished.num_rows("latents"), finished.num_rows("text")) == (24, 25)  # and ""


def test_metrics_plots_and_experiments_are_shown(finished: Workspace) -> None:
    names = ["digit_accuracy", "digits_judged", "judge_accuracy_real", "val_loss", "val_loss_base"]
    (values,) = json.loads(finished.ok("dvc", "metrics", "show", "--json").output).values()
    shown = values["data"]["data/evaluate/metrics.json"]["data"]
    assert shown == read_json(finished.root / "data/evaluate/metrics.json")
    assert set(names) <= shown.keys()
    assert all(name in finished.ok("dvc", "exp", "show").output for name in names)
    finished.ok("dvc", "plots", "show")
    page = (finished.root / "dvc_plots/index.html").read_text()
    titles = ["Training loss", "Validation loss on the fixed grid", "Digits asked for and read"]
    assert all(title in page for title in titles)
    assert all(name in page for name in ["data_sample_grid.png", "data_evaluate_grid.png"])


def test_one_other_caption_is_one_text_row(workspace: Workspace) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[5]["caption"] = "a number that nobody wrote before"

    latents, prompts = workspace.num_rows("latents"), workspace.num_rows("text")
    workspace.metadata(change)
    again = workspace.ok("dvc", "repro", *ENCODERS)
    assert again.lines("encoded ") == [f"encoded 1 rows, reused {prompts - 1}"]
    assert again.ran() == ["ingest", "check_captions", "bucket", "preflight", "encode_captions"]
    assert (workspace.num_rows("latents"), workspace.num_rows("text")) == (latents, prompts + 1)


def test_one_more_picture_is_one_latent_row(workspace: Workspace) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows.append({"image": "new.png", "caption": rows[0]["caption"]})

    latents, prompts = workspace.num_rows("latents"), workspace.num_rows("text")
    write_picture(workspace.mine / "new.png", seed=1)
    workspace.metadata(change)
    again = workspace.ok("dvc", "repro", "encode_images")
    assert again.lines("encoded ") == [f"encoded 1 rows, reused {latents}"]
    assert "encode_captions" not in again.ran()
    assert (workspace.num_rows("latents"), workspace.num_rows("text")) == (latents + 1, prompts)
