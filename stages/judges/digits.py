"""Read composites of handwritten digits with an SVM that has only ever seen single real scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.svm import SVC

from stages.artifacts import read_json
from stages.judges.verdict import Picture, Question, Reading

MIN_TRAIN_SCANS = 500  # real scans below which the judge's word counts for nothing
MIN_ACCURACY = 0.96  # of unseen real scans that the judge must read right
FEATURE_SIDE = 16  # pixels: a scan is averaged down to this, so that fine grain does not count
REMAKE = "make it again with `python -m stages.make_digits`"

Scans = tuple[NDArray[np.uint8], NDArray[np.int64]]  # (M, S, S) grey, (M,) labels


@dataclass(frozen=True)
class DigitsExamination:
    """An SVM, its scores on real data, and the held-out numbers it asks for."""

    svm: SVC
    square: int  # side of a scan in pixels
    questions: list[Question]
    labels: list[list[int]]  # the digits of each question, left to right
    accuracy_scans: float  # on unseen single scans
    accuracy_real: float  # on real composites of the questions

    def read(self, pictures: Sequence[Picture]) -> list[Reading]:
        """Cut each composite into squares and read them left to right."""
        places = [(q, p) for q, digits in enumerate(self.labels) for p in range(len(digits))]
        squares = [_square(pictures[q], p, self.square) for q, p in places]
        return [
            Reading(q, p, _box(p, self.square), str(self.labels[q][p]), str(read))
            for (q, p), read in zip(places, _read(self.svm, np.stack(squares)), strict=True)
        ]

    def metrics(self, readings: Sequence[Reading]) -> dict[str, float]:
        """Return the share of digits read right, over all and by the length of the number."""
        lengths = [len(self.labels[reading.question]) for reading in readings]
        by_length = {
            f"digit_accuracy_{length}": _share(
                [r.correct for r, n in zip(readings, lengths, strict=True) if n == length]
            )
            for length in sorted(set(lengths))
        }
        return {
            "digit_accuracy": _share([reading.correct for reading in readings]),
            "digits_judged": len(readings),
            "judge_accuracy_real": self.accuracy_real,
            "judge_accuracy_scans": self.accuracy_scans,
            **by_length,
        }

    def summary(self, metrics: dict[str, float]) -> str:
        """Say how many digits were read right, beside the judge's own score."""
        return (
            f"digit accuracy {metrics['digit_accuracy']:.3f} over {metrics['digits_judged']} digits"
            f" (judge reads {self.accuracy_real:.3f} of real ones)"
        )


class DigitsJudge:
    """Trains on `scans.json` split train, proves itself on split test, asks `prompts.json`."""

    def prepare(self, folder: Path, num_prompts: int | None) -> DigitsExamination:
        """Train the SVM and let it read unseen scans and the real composites.

        Raises:
            FileNotFoundError: The folder holds no scans.json or prompts.json, or lacks a picture.
            ValueError: Too few scans, a judge that reads too badly, or a composite of wrong size.
        """
        train, test = _scans(folder, "train"), _scans(folder, "test")
        _check_scans(train, test, folder)
        svm = SVC(C=10.0, gamma="scale").fit(_features(train[0]), train[1])
        accuracy_scans = _share(list(_read(svm, test[0]) == test[1]))
        if accuracy_scans < MIN_ACCURACY:
            raise ValueError(
                f"{folder}: the judge reads {accuracy_scans:.3f} of {len(test[1])} unseen real "
                f"scans right, but at least {MIN_ACCURACY} is needed to trust it: {REMAKE}"
            )
        entries = _spread(_entries(folder / "prompts.json"), num_prompts)
        labels = [[int(digit) for digit in entry["label"]] for entry in entries]
        questions = [Question(e["prompt"], int(e["width"]), int(e["height"])) for e in entries]
        square = train[0].shape[1]
        _check_sizes(questions, labels, square, folder)
        exam = DigitsExamination(svm, square, questions, labels, accuracy_scans, 0.0)
        real = exam.read([_open(folder / entry["image"]) for entry in entries])
        accuracy_real = _share([reading.correct for reading in real])
        return DigitsExamination(svm, square, questions, labels, accuracy_scans, accuracy_real)


def _scans(folder: Path, split: str) -> Scans:
    entries = [entry for entry in _entries(folder / "scans.json") if entry["split"] == split]
    pictures = [_grey(_open(folder / entry["image"])) for entry in entries]
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"{folder}/scans.json names scans of different sizes: {REMAKE}")
    labels = np.array([entry["label"] for entry in entries], dtype=np.int64)
    return (np.stack(pictures) if pictures else np.zeros((0, 1, 1), np.uint8)), labels


def _check_scans(train: Scans, test: Scans, folder: Path) -> None:
    if len(train[1]) < MIN_TRAIN_SCANS:
        raise ValueError(
            f"{folder}/scans.json: {len(train[1])} scans to train the judge, but at least "
            f"{MIN_TRAIN_SCANS} are needed: {REMAKE}"
        )
    if len(test[1]) == 0:
        raise ValueError(f"{folder}/scans.json has no scans of split 'test': {REMAKE}")


def _check_sizes(
    questions: list[Question], labels: list[list[int]], square: int, folder: Path
) -> None:
    for question, digits in zip(questions, labels, strict=True):
        wanted = (square * len(digits), square)
        if (question.width, question.height) != wanted:
            raise ValueError(
                f"{folder}/prompts.json: {question.prompt!r} is {question.width}x{question.height} "
                f"pixels, but {len(digits)} digits of {square} need {wanted[0]}x{wanted[1]}: "
                f"{REMAKE}"
            )


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there, but the digits judge reads it: set evaluate.judge_path to the "
            "folder that stages.make_digits wrote, or evaluate.judge to null"
        )
    entries: list[dict[str, Any]] = read_json(path)
    return entries


def _spread(entries: list[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    if count is None or count >= len(entries):
        return entries
    return [entries[index * len(entries) // count] for index in range(count)]


def _open(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _grey(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).convert("L"))


def _box(position: int, square: int) -> tuple[int, int, int, int]:
    return (position * square, 0, (position + 1) * square, square)


def _square(picture: Picture, position: int, square: int) -> NDArray[np.uint8]:
    left, top, right, bottom = _box(position, square)
    return _grey(picture)[top:bottom, left:right]


def _features(squares: NDArray[np.uint8]) -> NDArray[np.float64]:
    side = squares.shape[1]
    small = [
        np.asarray(Image.fromarray(square).resize((FEATURE_SIDE,) * 2, Image.Resampling.BOX))
        if side > FEATURE_SIDE
        else square
        for square in squares
    ]
    return np.stack(small).reshape(len(small), -1) / 255.0


def _read(svm: SVC, squares: NDArray[np.uint8]) -> NDArray[np.int64]:
    reads: NDArray[np.int64] = svm.predict(_features(squares))
    return reads


def _share(correct: Sequence[bool] | Sequence[np.bool_]) -> float:
    return float(np.mean(correct)) if len(correct) else 0.0
