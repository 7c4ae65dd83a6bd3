"""The folder of a digits judge: labelled scans, and questions with the picture of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.artifacts import read_json
from stages.judges.verdict import Picture, Question

FEATURE_SIDE = 16  # pixels: a scan is averaged down to this, so that fine grain does not count
REMAKE = "make it again with the stage that wrote it, see data/raw/dvc.yaml"
Squares = NDArray[np.uint8]  # (M, S, S) grey


@dataclass(frozen=True)
class Scans:
    """Real single scans."""

    squares: Squares
    labels: NDArray[np.int64]  # (M,) digits
    styles: NDArray[np.str_]  # (M,) how they are written; "" where there is one way

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Asked:
    """A question, and what its picture should show."""

    question: Question
    label: tuple[int, ...]  # digits, left to right
    answer: str  # file of a real picture of them
    task: str = ""  # of several kinds of questions
    style: str = ""  # how it should be written
    filled: tuple[int, ...] = ()  # places of the digits that are new


def read_scans(folder: Path, split: str) -> Scans:
    """Read the scans of a split, "train" or "test".

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: Scans differ in size.
    """
    entries = [entry for entry in _entries(folder / "scans.json") if entry["split"] == split]
    pictures = [grey(open_picture(folder / entry["image"])) for entry in entries]
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"{folder}/scans.json names scans of different sizes: {REMAKE}")
    squares = np.stack(pictures) if pictures else np.zeros((0, 1, 1), np.uint8)
    labels = np.array([entry["label"] for entry in entries], dtype=np.int64)
    return Scans(squares, labels, np.array([entry.get("style", "") for entry in entries], str))


def read_questions(folder: Path, square: int, count: int | None) -> list[Asked]:
    """Read the questions, or `count` of them, spread over all; a digit has `square` pixels.

    Raises:
        FileNotFoundError: The folder has none.
        ValueError: A picture has another size than its digits.
    """
    entries = _entries(folder / "prompts.json")
    if count is not None and count < len(entries):
        entries = [entries[index * len(entries) // count] for index in range(count)]
    asked = [_asked(entry) for entry in entries]
    for each in asked:
        question, wanted = each.question, (square * len(each.label), square)
        if (question.width, question.height) != wanted:
            raise ValueError(
                f"{folder}/prompts.json: {question.prompt!r} is {question.width}x{question.height} "
                f"pixels, but {len(each.label)} digits of {square} need {wanted[0]}x{wanted[1]}: "
                f"{REMAKE}"
            )
    return asked


def _asked(entry: dict[str, Any]) -> Asked:
    references = tuple(entry.get("references", ()))
    size = (int(entry["width"]), int(entry["height"]))
    return Asked(
        Question(entry["prompt"], *size, references, entry.get("mask")),
        tuple(int(digit) for digit in entry["label"]),
        entry["image"],
        entry.get("task", ""),
        entry.get("style", ""),
        tuple(entry.get("filled", ())),
    )


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there, but the digits judge reads it: set evaluate.judge_path to a "
            "judge's folder of data/raw/dvc.yaml, or evaluate.judge to null"
        )
    entries: list[dict[str, Any]] = read_json(path)
    return entries


def open_picture(path: Path) -> Picture:
    """Open a picture as (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def grey(picture: Picture) -> NDArray[np.uint8]:
    """Take the lightness (H, W) of a picture."""
    return np.asarray(Image.fromarray(picture).convert("L"))


def features(squares: Squares) -> NDArray[np.float64]:
    """Give what a classifier sees of squares: (M, F) in [0, 1]."""
    side = squares.shape[1]
    small = [
        np.asarray(Image.fromarray(square).resize((FEATURE_SIDE,) * 2, Image.Resampling.BOX))
        if side > FEATURE_SIDE
        else square
        for square in squares
    ]
    return np.stack(small).reshape(len(small), -1) / 255.0


def cut(pictures: Sequence[Picture], asked: Sequence[Asked], side: int) -> Squares:
    """Cut every digit of every picture out, left to right."""
    return np.stack(
        [
            grey(picture)[:, place * side : (place + 1) * side]
            for picture, each in zip(pictures, asked, strict=True)
            for place in range(len(each.label))
        ]
    )
