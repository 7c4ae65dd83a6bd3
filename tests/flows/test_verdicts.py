"""DVC's words, as DVC 3.67.1 prints them, become verdicts and complaints."""

from __future__ import annotations

import pytest

from flows.verdicts import CACHED, RAN, RESTORED, complaint, unchanged, verdict


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Running stage 'train':", RAN),
        ("Stage 'train' didn't change, skipping", CACHED),
        ("Stage 'train' is cached - skipping run, checking out outputs", RESTORED),
        ("Running stage 'other':", None),
    ],
)
def test_a_verdict_is_what_dvc_says_of_this_stage(line: str, expected: str | None) -> None:
    assert verdict("train", ["WARNING: something", line, "Updating lock file"]) == expected


def test_what_the_stage_itself_prints_is_no_verdict() -> None:
    lines = ["Running stage 'train':", "Stage 'train' didn't change, skipping"]
    assert verdict("train", lines) == RAN


def test_data_added_with_dvc_add_has_verdicts_too() -> None:
    assert verdict("data/mine.dvc", ["'data/mine.dvc' didn't change, skipping"]) == CACHED
    assert verdict("data/mine.dvc", ["Verifying data sources in stage: 'data/mine.dvc'"]) == RAN


def test_a_failed_command_is_told_by_its_own_last_line() -> None:
    lines = [
        "Running stage 'ingest':",
        "> python -m stages.ingest",
        "ingest: data/raw/digits is not there",
        "ERROR: failed to reproduce 'ingest': failed to run: python -m x, exited with 1",
    ]
    assert complaint(lines) == "ingest: data/raw/digits is not there"
    assert complaint([*lines[:2], lines[3]]) == "failed to run: python -m x, exited with 1"


def test_what_dvc_itself_refuses_is_told_in_its_words() -> None:
    lines = [
        "Running stage 'ingest':",
        "> python -m stages.ingest",
        "ingest: all is well",
        "ERROR: failed to reproduce 'ingest': output 'data/images.parquet' does not exist",
    ]
    assert complaint(lines) == "output 'data/images.parquet' does not exist"
    assert complaint(["ERROR: Stage 'x' not found inside 'dvc.yaml' file"]) == (
        "Stage 'x' not found inside 'dvc.yaml' file"
    )


@pytest.mark.parametrize(
    "line",
    [
        "ERROR: Unable to acquire lock. Most likely another DVC process is running or",
        "ERROR: failed to reproduce 'b': '/r/a.txt' is busy, it is being blocked by:",
    ],
)
def test_a_repository_in_use_is_said_to_be(line: str) -> None:
    assert "another DVC process is at work" in complaint([line, "  (PID 8542): dvc repro"])


def test_unchanged_is_what_status_does_not_list() -> None:
    status = ["WARNING: stage: 'b' is frozen.", '{"a": [{"changed deps": {"x": "new"}}]}']
    assert unchanged(["a", "b"], status) == {"b"}


def test_nothing_counts_as_unchanged_when_dvc_cannot_tell() -> None:
    assert unchanged(["a"], ["ERROR: '/r/a.txt' is busy, it is being blocked by:"]) == set()
