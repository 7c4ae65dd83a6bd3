"""Judges of styles, edits and fillings: only right answers score well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.generation import Picture, base_records, load_generator
from stages.judges import JUDGES, Examination
from stages.judges.verdict import Question
from stages.kept_region import kept_errors
from stages.make_digits.digits import SEED, Label, Pool, split_scans
from stages.make_digits.styles import PLAIN
from stages.make_digits.tasks import Example, add_one, filled, hand, plain, swap, write_judge

LABELS: list[Label] = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 0, 4)]


@pytest.fixture(scope="module")
def pools() -> list[Pool]:
    return split_scans(np.random.default_rng(SEED))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def prepare(
    folder: Path, pools: list[Pool], examples: Sequence[Example], styles: Sequence[str] = (PLAIN,)
) -> Examination:
    write_judge(folder, (pools[2], pools[3]), styles, examples)
    return JUDGES["digits"].prepare(folder, None)


def pictures(folder: Path, exam: Examination, name: str) -> list[Picture]:
    """Open what the judge holds for each question, "composites" or "references"."""
    files = [folder / name / f"{i:04d}.png" for i in range(len(exam.questions))]
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def test_a_style_is_told_apart_from_another_whatever_the_digits(
    pools: list[Pool], tmp_path: Path
) -> None:
    examples = hand(pools[3], LABELS, rng()) + plain(pools[3], LABELS, rng())
    exam = prepare(tmp_path / "judge", pools, examples, (PLAIN, "hand"))
    right = pictures(tmp_path / "judge", exam, "composites")
    metrics = exam.metrics(exam.read(right))
    assert metrics["style_agreement"] == metrics["judge_style_real"] >= 0.95
    assert metrics["digit_accuracy"] == metrics["judge_accuracy_real"] >= 0.9
    assert metrics["digits_judged"] == 24
    exchanged = exam.metrics(exam.read(right[4:] + right[:4]))  # same digits, other style
    assert exchanged["style_agreement"] <= 0.05
    assert exchanged["digit_accuracy"] == metrics["digit_accuracy"]
    only_hand = exam.metrics(exam.read(right[:4] + right[:4]))
    assert only_hand["style_agreement_hand"] >= 0.95 > 0.1 >= only_hand["style_agreement_plain"]
    assert f"style right in {metrics['style_agreement']:.3f}" in exam.summary(metrics)


def test_edits_are_scored_by_task_and_copies_of_the_reference_fail(
    pools: list[Pool], tmp_path: Path
) -> None:
    examples = add_one(pools[3], LABELS, rng()) + swap(pools[3], LABELS, rng())
    exam = prepare(tmp_path / "judge", pools, examples)
    assert exam.questions[0] == Question(
        "add one to each digit", 96, 32, ("references/0000.png",), None
    )
    right = exam.metrics(exam.read(pictures(tmp_path / "judge", exam, "composites")))
    assert right["digit_accuracy_add_one"] >= 0.9
    assert right["digit_accuracy_swap"] >= 0.9
    copied = exam.metrics(exam.read(pictures(tmp_path / "judge", exam, "references")))
    assert copied["digit_accuracy_add_one"] <= 0.1
    assert copied["digit_accuracy_swap"] == pytest.approx(1 / 3, abs=0.1)  # the middle


def test_only_filled_digits_count_as_filled(pools: list[Pool], tmp_path: Path) -> None:
    exam = prepare(tmp_path / "judge", pools, filled(pools[3], LABELS, rng()))
    assert exam.questions[0].mask == "masks/0000.png"
    right = exam.metrics(exam.read(pictures(tmp_path / "judge", exam, "composites")))
    assert right["filled_digit_accuracy"] >= 0.75
    copied = exam.metrics(exam.read(pictures(tmp_path / "judge", exam, "references")))
    assert copied["filled_digit_accuracy"] <= 0.25
    assert copied["digit_accuracy"] >= 0.6  # the kept ones


def test_the_error_of_what_is_kept_is_measured_outside_the_mask(
    pools: list[Pool], tmp_path: Path, tiny_model: Path
) -> None:
    folder = tmp_path / "judge"
    exam = prepare(folder, pools, filled(pools[3], LABELS, rng()))
    records = base_records(tiny_model / "base")
    generator = load_generator("flux2", tiny_model / "train" / "weights", records, "float32")
    given = pictures(folder, exam, "references")
    exact = kept_errors(generator, exam.questions, given, folder)
    assert exact["kept_error"] == 0 < exact["kept_error_vae"]
    answers = pictures(folder, exam, "composites")  # differ from what was given in the middle
    assert kept_errors(generator, exam.questions, answers, folder)["kept_error"] == 0
    brighter = [np.clip(picture.astype(int) + 51, 0, 255).astype(np.uint8) for picture in given]
    off = kept_errors(generator, exam.questions, brighter, folder)["kept_error"]
    assert 0 < off <= 0.2
    without = [Question("handwritten digits one", 32, 32)]
    assert kept_errors(generator, without, given[:1], folder) == {}
