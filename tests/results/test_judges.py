from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.judges import JUDGES
from stages.judges.digits import DigitsJudge
from stages.params.outputs import Evaluate


def edit(path: Path, change: object) -> None:
    entries = json.loads(path.read_text())
    for entry in entries:
        entry.update(change(entry))  # type: ignore[operator]
    path.write_text(json.dumps(entries))


def test_the_judge_reads_real_scans_and_composites(judge_folder: Path) -> None:
    exam = DigitsJudge().prepare(judge_folder, None)
    assert exam.accuracy_scans >= 0.96
    assert exam.accuracy_real >= 0.9
    assert len(exam.questions) == 6


def test_metrics_count_every_digit_once_and_by_length(judge_folder: Path) -> None:
    exam = DigitsJudge().prepare(judge_folder, None)
    real = [np.asarray(Image.open(judge_folder / f"composites/{q:04d}.png")) for q in range(6)]
    blank = np.full((32, 64, 3), 255, np.uint8)
    readings = exam.read([blank, *(np.stack([tile] * 3, axis=-1) for tile in real[1:])])
    metrics = exam.metrics(readings)
    assert metrics["digits_judged"] == 3 * 2 + 3 * 3 == len(readings)
    right = sum(reading.read == reading.label for reading in readings)
    assert metrics["digit_accuracy"] == pytest.approx(right / 15)
    assert metrics["digit_accuracy_2"] == pytest.approx(
        sum(r.correct for r in readings if r.question % 2 == 0) / 6
    )
    assert metrics["judge_accuracy_real"] == exam.accuracy_real
    assert readings[1].box == (32, 0, 64, 32)
    assert "over 15 digits (judge reads" in exam.summary(metrics)


def test_fewer_prompts_are_spread_over_all_lengths(judge_folder: Path) -> None:
    questions = DigitsJudge().prepare(judge_folder, 3).questions
    assert [question.width for question in questions] == [64, 64, 64]  # every second of six
    assert len(DigitsJudge().prepare(judge_folder, 100).questions) == 6


def test_a_judge_with_few_scans_is_not_believed(smaller_judge_folder: Path) -> None:
    with pytest.raises(ValueError, match="60 scans to train the judge, but at least 500"):
        DigitsJudge().prepare(smaller_judge_folder, None)


def test_a_judge_that_reads_badly_is_not_believed(
    smaller_judge_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.judges.digits.MIN_TRAIN_SCANS", 60)
    edit(smaller_judge_folder / "scans.json", lambda entry: {"label": (entry["label"] * 7) % 5})
    edit(
        smaller_judge_folder / "scans.json",
        lambda entry: {"label": 9} if entry["split"] == "test" else {},
    )
    with pytest.raises(ValueError, match=r"unseen real scans right, but at least 0.96"):
        DigitsJudge().prepare(smaller_judge_folder, None)


def test_test_scans_never_train_the_judge(judge_folder: Path, tmp_path: Path) -> None:
    """Wrong labels on the test scans lower the score and leave the SVM as it was."""
    exam = DigitsJudge().prepare(judge_folder, None)
    (tmp_path / "scans").symlink_to(judge_folder / "scans")
    (tmp_path / "composites").symlink_to(judge_folder / "composites")
    for name in ("scans.json", "prompts.json"):
        (tmp_path / name).write_text((judge_folder / name).read_text())
    spoilt = {"label": 0}
    edit(tmp_path / "scans.json", lambda e: spoilt if e["image"] == "scans/0600.png" else {})
    other = DigitsJudge().prepare(tmp_path, None)
    np.testing.assert_array_equal(exam.svm.support_, other.svm.support_)
    assert other.accuracy_scans <= exam.accuracy_scans


def test_a_composite_of_another_size_is_named(judge_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").symlink_to(judge_folder / "scans")
    (tmp_path / "scans.json").write_text((judge_folder / "scans.json").read_text())
    (tmp_path / "prompts.json").write_text((judge_folder / "prompts.json").read_text())
    edit(tmp_path / "prompts.json", lambda entry: {"width": 80})
    with pytest.raises(ValueError, match="is 80x32 pixels, but 2 digits of 32 need 64x32"):
        DigitsJudge().prepare(tmp_path, None)


def test_a_folder_without_scans_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"scans.json is not there.*evaluate.judge_path"):
        DigitsJudge().prepare(tmp_path, None)


def test_every_judge_can_be_chosen_in_the_parameters() -> None:
    for name in JUDGES:
        assert Evaluate(judge=name).judge == name
