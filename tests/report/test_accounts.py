"""The sums of the ledgers: every file once, and no page where they do not agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages.artifacts import read_json, read_table, write_table
from stages.report_dataset.accounts import balance, in_common
from stages.report_dataset.inputs import Inputs, read_inputs
from tests.report.conftest import SIZES
from tests.report.datasets import EDITING, Reported, make_editing, prepare, report

Rows = list[dict[str, Any]]


def inputs_of(reported: Reported) -> Inputs:
    return read_inputs(reported.artifacts.places)


def listed_files(reported: Reported) -> set[str]:
    root = Path(reported.params.train_path)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    pictures = {Path(name).with_suffix("") for name in files if not name.endswith(".txt")}
    return {name for name in files if name[-4:] != ".txt" or Path(name[:-4]) not in pictures}


def test_every_file_is_counted_once(lifelike: Reported) -> None:
    accounts = balance(inputs_of(lifelike))
    assert accounts.num_files == len(listed_files(lifelike))
    assert accounts.num_files == sum(accounts.files.values())
    numbers = read_json(lifelike.artifacts.metrics)
    assert numbers["files"] == numbers["pictures"] + numbers["excluded"] + numbers["quarantined"]
    assert numbers["pictures"] == numbers["train"] + numbers["validation"]
    assert (numbers["quarantined"], numbers["excluded"]) == (2, 5)


def test_each_stage_says_what_it_left_out_and_why(lifelike: Reported) -> None:
    steps = {step.stage: step for step in balance(inputs_of(lifelike)).steps}
    left_out = {
        stage: {
            (reason.fate, reason.text): [path for path, _ in reason.files]
            for reason in step.reasons
        }
        for stage, step in steps.items()
    }
    assert left_out["ingest"]["quarantined", "the file is empty"] == ["empty.jpg"]
    assert left_out["ingest"]["excluded", "caption without a picture"] == ["alone.txt"]
    assert left_out["check_captions"]["excluded", "no caption"] == ["no caption.jpg"]
    assert list(left_out["bucket"].values()) == [["icon.png"]]
    assert steps["ingest"].going_on == steps["check_captions"].total
    assert steps["check_captions"].going_on == steps["bucket"].total


def test_references_and_masks_share_the_fate_of_their_target(tmp_path: Path) -> None:
    root = make_editing(tmp_path / "edits")
    (root / "3.txt").write_text(" ")
    made = report(root, tmp_path / "out", SIZES | EDITING)
    accounts = balance(inputs_of(made))
    assert accounts.files == {"kept": 20, "validation": 0, "excluded": 4, "quarantined": 0}
    assert accounts.samples["kept"] == 5
    assert accounts.lent == {"kept": 15, "validation": 0}


def drop(rows: Rows) -> Rows:
    return rows[1:]


def repeat(rows: Rows) -> Rows:
    return [rows[0], *rows]


def rename(rows: Rows) -> Rows:
    return [rows[0] | {"path": "another.jpg"}, *rows[1:]]


def forget_reason(rows: Rows) -> Rows:
    first = next(i for i, row in enumerate(rows) if row["reason"])
    return [row | {"reason": ""} if i == first else row for i, row in enumerate(rows)]


@pytest.mark.parametrize("ledger", ["ingest_ledger", "captions_ledger", "bucket_ledger"])
@pytest.mark.parametrize("spoil", [drop, repeat, rename, forget_reason])
def test_no_page_is_made_where_a_ledger_does_not_add_up(
    lifelike: Reported, tmp_path: Path, ledger: str, spoil: Callable[[Rows], Rows]
) -> None:
    table = read_table(getattr(lifelike.artifacts, ledger), "ledger")
    rows = sorted(table.to_pylist(), key=lambda row: row["fate"] != "kept")
    spoiled = pa.Table.from_pylist(spoil(rows), schema=table.schema)
    write_table(tmp_path / "ledger.parquet", spoiled, "ledger")
    artifacts = replace(
        lifelike.artifacts,
        page=tmp_path / "dataset.html",
        metrics=tmp_path / "dataset.json",
        **{ledger: tmp_path / "ledger.parquet"},
    )
    with pytest.raises(ValueError, match="sums do not agree, so the page is not made; run `dvc"):
        Reported(artifacts, lifelike.params).again()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.parquet"]


def test_a_picture_that_no_bucket_holds_is_missed(lifelike: Reported) -> None:
    inputs = inputs_of(lifelike)
    with pytest.raises(ValueError, match=r"bucket let pass.*data/buckets.parquet has targets"):
        balance(replace(inputs, buckets=inputs.buckets[1:]))


def test_the_summary_of_ingest_is_held_to_the_table(lifelike: Reported) -> None:
    inputs = inputs_of(lifelike)
    with pytest.raises(ValueError, match=r"59 pictures, but data/images.parquet has 58 targets"):
        balance(replace(inputs, ingest={**inputs.ingest, "pictures": 59}))


def test_a_report_before_that_is_missing_is_named(lifelike: Reported, tmp_path: Path) -> None:
    artifacts = replace(lifelike.artifacts, ingest_report=tmp_path / "ingest.json")
    with pytest.raises(FileNotFoundError, match=r"ingest.json is not there: run `dvc repro`"):
        Reported(artifacts, lifelike.params).again()


def test_reasons_that_differ_in_numbers_and_names_are_one(tmp_path: Path) -> None:
    root = make_editing(tmp_path / "edits")
    for i in range(3):
        (root / f"{i}.png").write_bytes(b"")
    made = prepare(root, tmp_path / "out", SIZES | EDITING)
    ingest = balance(inputs_of(made)).steps[0]
    assert [(reason.text, len(reason.files)) for reason in ingest.reasons] == [
        ("its target … is left out", 9),
        ("the file is empty", 3),
    ]
    assert ingest.reasons[0].files[0] == ("before/0.png", "its target 0.png is left out")
    assert in_common(["it is 9x8 pixels, below 64", "it is 7x8 pixels, below 64"]) == (
        "it is …x8 pixels, below 64"
    )
