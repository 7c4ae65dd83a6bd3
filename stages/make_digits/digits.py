"""Real handwritten digits as scikit-learn carries them, and datasets made of them.

The scans (Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI, CC BY 4.0,
doi 10.24432/C50P49) fall into four disjoint pools, so that no scan trains both a model and its
judge; the numbers fall into trained and held-out ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from stages.artifacts import staging, write_json

T = TypeVar("T")
Label = tuple[int, ...]  # a number by its digits, left to right
Tile = npt.NDArray[np.uint8]  # (H, W): dark ink on white paper
Pool = list[tuple[int, Tile]]  # enlarged scans, each with the digit that it shows

SEED = 20260501
TILE = 32  # pixels: each 8x8 scan is enlarged to 32x32
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BASE, TRAIN, JUDGE_TRAIN = 300, 700, 520  # scans in the pools; the rest test the judge
HELD_OUT = {2: 35, 3: 500}  # of 100 and 1000 numbers; all ten one-digit numbers are trained
LENGTHS = (1, 2, 3)  # of numbers, in digits
INK_FROM, INK_TO = 40, 215  # grey values between which the enlarged strokes get their edge


def split_scans(rng: np.random.Generator) -> list[Pool]:
    """Shuffle the scans and cut them into pools that each hold all digits in like proportion."""
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(labels))
    place = np.empty(len(labels))  # of a scan within its digit, in [0, 1)
    for digit in range(10):
        members = order[labels[order] == digit]
        place[members] = (np.arange(len(members)) + rng.random()) / (len(members) + 1)
    order = np.argsort(place, kind="stable")
    cuts = np.cumsum([BASE, TRAIN, JUDGE_TRAIN])
    return [
        [(int(labels[i]), enlarge(images[i].reshape(8, 8))) for i in pool]
        for pool in np.split(order, cuts)
    ]


def enlarge(scan: npt.NDArray[np.float64]) -> Tile:
    """Enlarge an 8x8 scan (ink 0 to 16) to 32x32: bicubic, then a smooth step sharpens strokes."""
    ink = Image.fromarray(np.round(scan * 255 / 16).astype(np.uint8))
    ink = ink.resize((TILE, TILE), Image.Resampling.BICUBIC)
    edge = np.clip((np.asarray(ink, np.float64) - INK_FROM) / (INK_TO - INK_FROM), 0, 1)
    return np.round(255 * (1 - edge * edge * (3 - 2 * edge))).astype(np.uint8)


def split_numbers(
    rng: np.random.Generator,
) -> tuple[dict[int, list[Label]], dict[int, list[Label]]]:
    """Return held-out and trained numbers, each by their number of digits."""
    held_out: dict[int, list[Label]] = {}
    trained: dict[int, list[Label]] = {}
    for length in LENGTHS:
        shuffled = rng.permutation(10**length)
        labels = [tuple(int(digit) for digit in f"{number:0{length}d}") for number in shuffled]
        count = HELD_OUT.get(length, 0)
        held_out[length], trained[length] = labels[:count], labels[count:]
    return held_out, trained


def choose(
    numbers: dict[int, list[Label]], counts: dict[int, int], rng: np.random.Generator
) -> list[Label]:
    """Return as many labels of each length as asked for, each number about equally often."""
    chosen = []
    for length, count in counts.items():
        deal = dealt(numbers[length], rng)
        chosen += [next(deal) for _ in range(count)]
    return chosen


def dealt(items: Sequence[T], rng: np.random.Generator) -> Iterator[T]:
    """Deal `items` from a shuffled deck for ever, shuffling anew when it is used up."""
    while True:
        for i in rng.permutation(len(items)):
            yield items[i]


def compose(pool: Pool, labels: Sequence[Label], rng: np.random.Generator) -> Iterator[Tile]:
    """Yield a row of scans for each label, each scan of a digit about equally often."""
    decks = []
    for digit in range(10):
        members = [tile for shown, tile in pool if shown == digit]
        decks.append(dealt(members, rng))
    for label in labels:
        yield np.concatenate([next(decks[digit]) for digit in label], axis=1)


def caption(label: Label) -> str:
    """Return the number in words."""
    return " ".join(["handwritten digits", *(WORDS[digit] for digit in label)])


def write_dataset(
    path: Path, pool: Pool, labels: Sequence[Label], rng: np.random.Generator
) -> None:
    """Write an ordinary dataset: pictures and a metadata.json with their captions."""
    rows: list[dict[str, Any]] = []
    with staging(path) as folder:
        folder.mkdir()
        pictures = zip(labels, compose(pool, labels, rng), strict=True)
        for i, (label, tile) in enumerate(pictures):
            rows.append({"image": f"{i:04d}.png", "caption": caption(label)})
            write_png(folder / f"{i:04d}.png", tile)
        write_json(folder / "metadata.json", rows)


def write_scans(folder: Path, train: Pool, test: Pool) -> None:
    """Write single scans with their labels: what a judge learns from and is tested on."""
    (folder / "scans").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for split, pool in (("train", train), ("test", test)):
        for digit, tile in pool:
            name = f"scans/{len(rows):04d}.png"
            rows.append({"image": name, "label": digit, "split": split})
            write_png(folder / name, tile)
    write_json(folder / "scans.json", rows)


def write_prompts(
    folder: Path, pool: Pool, labels: Sequence[Label], rng: np.random.Generator
) -> None:
    """Write held-out prompts, each with a real picture of its number to compare with."""
    (folder / "composites").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    pictures = zip(labels, compose(pool, labels, rng), strict=True)
    for i, (label, tile) in enumerate(pictures):
        name = f"composites/{i:04d}.png"
        size = {"width": tile.shape[1], "height": tile.shape[0]}
        rows.append({"prompt": caption(label), "label": list(label), "image": name, **size})
        write_png(folder / name, tile)
    write_json(folder / "prompts.json", rows)


def write_png(path: Path, tile: Tile) -> None:
    """Write grey pixels as PNG, which carries no time stamp."""
    Image.fromarray(tile).save(path, optimize=False)
