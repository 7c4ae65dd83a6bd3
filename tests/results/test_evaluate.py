from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import evaluate
from stages.contact_sheet import Section
from stages.judges.verdict import Question, Reading
from stages.paired_gain import PairedGain, paired_gain
from stages.params.outputs import Evaluate
from stages.params.tracking import Tracking

LOSSES = {"val_loss", "val_loss_base", "val_gain", "val_gain_low"}
KEYS = {"digit_accuracy", "digits_judged", "judge_accuracy_real", *LOSSES}


def run(judge: str | None, folder: Path | None, num_prompts: int | None = None) -> dict[str, Any]:
    path = None if folder is None else str(folder)
    asked = Evaluate(judge, path, num_prompts, seed=5, cfg_scale=2.0)
    no_tracking = Tracking(mlflow=False)
    params = evaluate.Params(
        name="toy",
        family="flux2",
        dtype="float32",
        evaluate=asked,
        steps=1,  # of the sample section, as evaluate has none
        cfg_scale=1.0,  # evaluate has its own
        guidance=None,
        shift=None,
        sampler=None,
        keep_unmasked="pixels",
        threads=1,
        tracking=no_tracking,
    )
    evaluate.run(params)
    metrics: dict[str, Any] = json.loads(Path("data/evaluate/metrics.json").read_text())
    return metrics


def rows(name: str) -> list[dict[str, str]]:
    with Path(f"data/evaluate/{name}").open() as file:
        return list(csv.DictReader(file))


def test_the_judge_reads_generated_pictures(
    data: Path, judge_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run("digits", judge_folder)
    assert metrics.keys() >= KEYS
    assert metrics["digits_judged"] == 15
    assert metrics["val_loss"] == 0.123457
    assert metrics["val_gain"] == 1.5
    assert metrics["val_gain_low"] == pytest.approx(1.5 - 4.302653 * 0.5 / 3**0.5, abs=1e-6)
    judged = rows("judged.csv")
    assert len(judged) == 15
    right = sum(int(row["correct"]) for row in judged)
    assert metrics["digit_accuracy"] == pytest.approx(right / 15, abs=1e-6)
    assert all(int(row["correct"]) == (row["label"] == row["read"]) for row in judged)
    pairs = [(row["label"], row["read"]) for row in judged]
    assert [(row["actual"], row["predicted"]) for row in rows("confusion.csv")] == pairs
    assert (data / "evaluate" / "grid.png").is_file()
    line = f"digit accuracy {right / 15:.3f} over 15 digits (judge reads "
    assert capsys.readouterr().out.startswith(line)


def test_without_a_judge_there_are_losses_and_every_output(data: Path) -> None:
    assert run(None, None).keys() == LOSSES
    assert (rows("judged.csv"), rows("confusion.csv")) == ([], [])
    assert (data / "evaluate" / "grid.png").is_file()


def test_a_judge_without_a_folder_is_refused_before_any_picture(data: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluate.judge_path is null"):
        run("digits", None)
    assert not (data / "evaluate").exists()


def test_wrong_readings_are_noted_and_framed_where_they_are() -> None:
    blank = np.zeros((32, 64, 3), np.uint8)
    readings = [
        Reading(0, 0, (0, 0, 32, 32), "1", "1"),
        Reading(0, 1, (32, 0, 64, 32), "2", "7"),
        Reading(1, 0, (0, 0, 32, 32), "4", "4"),
    ]
    questions = [Question("one two", 64, 32), Question("four", 64, 32)]
    judged = evaluate.Judged(questions, [blank, blank], readings, {}, "")
    (section,) = evaluate.sections(judged)
    assert isinstance(section, Section)
    assert section.heading == "64 x 32 pixels: 1 of 2 read wrongly"
    assert [cell.note for cell in section.cells] == ["2 read as 7", ""]
    assert section.cells[0].frames == ((32, 0, 64, 32),)


def test_one_picture_alone_has_no_interval(tmp_path):
    (tmp_path / "one.csv").write_text("item,base,trained\na,2.0,0.5\n")
    assert paired_gain(tmp_path / "one.csv") == PairedGain(1.5, None, None)
