"""Read composites of handwritten digits with SVMs that have only ever seen single real scans.

One reads digits. Where the scans are written in several styles another one tells these apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from stages.judges.folder import (
    REMAKE,
    Asked,
    Scans,
    Squares,
    cut,
    features,
    open_picture,
    read_questions,
    read_scans,
)
from stages.judges.verdict import Picture, Question, Reading

MIN_TRAIN_SCANS = 500  # real scans below which the judge's word counts for nothing
MIN_ACCURACY = 0.96  # of unseen real scans that the judge must read right
STYLE = "style"  # kind of the readings that say how a digit is written


@dataclass(frozen=True)
class DigitsExamination:
    """SVMs, their scores on real data, and the held-out questions."""

    svm: SVC
    square: int  # side of a scan in pixels
    asked: Sequence[Asked]
    accuracy_scans: float  # on unseen single scans
    style_svm: SVC | None = None
    accuracy_real: float = 0.0  # on real answers to the questions
    style_real: float = 0.0  # share of their digits whose style is told right

    @property
    def questions(self) -> Sequence[Question]:
        """What to generate pictures for."""
        return [each.question for each in self.asked]

    def read(self, pictures: Sequence[Picture]) -> list[Reading]:
        """Cut each composite into squares and read them left to right; styles come last."""
        squares = cut(pictures, self.asked, self.square)
        readings = self._read(self.svm, squares, "digit", lambda each, p: str(each.label[p]))
        if self.style_svm is None:
            return readings
        return readings + self._read(self.style_svm, squares, STYLE, lambda each, _: each.style)

    def _read(
        self, svm: SVC, squares: Squares, kind: str, label: Callable[[Asked, int], str]
    ) -> list[Reading]:
        places = [(q, p) for q, each in enumerate(self.asked) for p in range(len(each.label))]
        return [
            Reading(q, p, _box(p, self.square), label(self.asked[q], p), str(read), kind)
            for (q, p), read in zip(places, svm.predict(features(squares)), strict=True)
        ]

    def metrics(self, readings: Sequence[Reading]) -> dict[str, float]:
        """Return shares of digits read right: of all, by length, by task, of the filled ones.

        Where there are styles, also the share of digits in the style asked for, of all and by it.
        """
        digits = [reading for reading in readings if reading.kind != STYLE]
        styles = [reading for reading in readings if reading.kind == STYLE]
        filled = [r for r in digits if r.position in self._of(r).filled]
        found = {
            "digit_accuracy": share(digits),
            "digits_judged": len(digits),
            "judge_accuracy_real": self.accuracy_real,
            "judge_accuracy_scans": self.accuracy_scans,
            **_by("digit_accuracy", digits, lambda r: str(len(self._of(r).label))),
            **_by("digit_accuracy", digits, lambda r: self._of(r).task),
        }
        if filled:
            found |= {"filled_digit_accuracy": share(filled)}
        if styles:
            found |= {"style_agreement": share(styles), "judge_style_real": self.style_real}
            found |= _by("style_agreement", styles, lambda r: r.label)
        return found

    def _of(self, reading: Reading) -> Asked:
        return self.asked[reading.question]

    def summary(self, metrics: dict[str, float]) -> str:
        """Say how many digits were read right, beside the judge's own score."""
        style = metrics.get("style_agreement")
        written = "" if style is None else f", style right in {style:.3f}"
        return (
            f"digit accuracy {metrics['digit_accuracy']:.3f} over {metrics['digits_judged']} digits"
            f" (judge reads {self.accuracy_real:.3f} of real ones){written}"
        )


class DigitsJudge:
    """Trains on `scans.json` split train, proves itself on split test, asks `prompts.json`."""

    def prepare(self, folder: Path, num_prompts: int | None) -> DigitsExamination:
        """Train the SVMs and let them read unseen scans and the real answers.

        Raises:
            FileNotFoundError: The folder holds no scans.json or prompts.json, or lacks a picture.
            ValueError: Too few scans, a judge that reads too badly, or a composite of wrong size.
        """
        train, test = read_scans(folder, "train"), read_scans(folder, "test")
        _check_scans(train, test, folder)
        svm, accuracy = _proven(train, test, train.labels, test.labels, folder, "scans")
        style_svm = None
        if len(set(train.styles)) > 1:
            style_svm, _ = _proven(
                train, test, train.styles, test.styles, folder, "styles of scans"
            )
        square = train.squares.shape[1]
        asked = read_questions(folder, square, num_prompts)
        exam = DigitsExamination(svm, square, asked, accuracy, style_svm)
        real = exam.read([open_picture(folder / each.answer) for each in asked])
        return replace(
            exam,
            accuracy_real=share([reading for reading in real if reading.kind != STYLE]),
            style_real=share([reading for reading in real if reading.kind == STYLE]),
        )


def _proven(
    train: Scans,
    test: Scans,
    taught: NDArray[np.generic],
    right: NDArray[np.generic],
    folder: Path,
    what: str,
) -> tuple[SVC, float]:
    """Teach an SVM labels of scans and let it read unseen ones."""
    svm = SVC(C=10.0, gamma="scale").fit(features(train.squares), taught)
    accuracy = float(np.mean(svm.predict(features(test.squares)) == right))
    if accuracy < MIN_ACCURACY:
        raise ValueError(
            f"{folder}: the judge reads {accuracy:.3f} of {len(test)} unseen real "
            f"{what} right, but at least {MIN_ACCURACY} is needed to trust it: {REMAKE}"
        )
    return svm, accuracy


def _check_scans(train: Scans, test: Scans, folder: Path) -> None:
    if len(train) < MIN_TRAIN_SCANS:
        raise ValueError(
            f"{folder}/scans.json: {len(train)} scans to train the judge, but at least "
            f"{MIN_TRAIN_SCANS} are needed: {REMAKE}"
        )
    if len(test) == 0:
        raise ValueError(f"{folder}/scans.json has no scans of split 'test': {REMAKE}")


def _box(position: int, square: int) -> tuple[int, int, int, int]:
    return (position * square, 0, (position + 1) * square, square)


def _by(
    name: str, readings: Sequence[Reading], group: Callable[[Reading], str]
) -> dict[str, float]:
    """Return the share that is right in each group that has a name."""
    names = sorted({group(reading) for reading in readings} - {""})
    return {
        f"{name}_{each}": share([reading for reading in readings if group(reading) == each])
        for each in names
    }


def share(readings: Sequence[Reading]) -> float:
    """Return the share of readings that are right."""
    return float(np.mean([reading.correct for reading in readings])) if readings else 0.0
