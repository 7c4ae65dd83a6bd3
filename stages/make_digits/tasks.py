"""Make the datasets of the training methods: styles, a hand, edits and what is to be filled.

Each has a folder to train on and one to judge with, made of the same pools of scans and the same
trained and held-out numbers as the digits datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts import staging, write_json
from stages.make_digits.digits import (
    SEED,
    TILE,
    Label,
    Pool,
    Tile,
    caption,
    choose,
    compose,
    split_numbers,
    split_scans,
    write_png,
)
from stages.make_digits.styles import PLAIN, restyle

RARE_WORD = "sks"  # of the hand of one's own; last, so that the words before it mean what they did
ADD_ONE, SWAP = "add one to each digit", "swap the ends"
STYLE_IMAGES = {1: 100, 2: 200, 3: 300}  # by number of digits
ADD_ONE_IMAGES = {1: 150, 2: 300, 3: 450}
SWAP_IMAGES = {2: 450, 3: 450}
FILL_IMAGES = {3: 900}
HAND_IMAGES = 5  # of three digits, all ten among them
HAND_HELD_OUT = {3: 30}  # to see whether the hand was learned, and not its five pictures
PROMPTS = {2: 20, 3: 25}  # 115 digits to judge
FILL_PROMPTS = {3: 100}

Numbers = dict[int, list[Label]]


@dataclass(frozen=True)
class Artifacts:
    """A dataset of each task and its judge's folder."""

    style: Path = Path("data/raw/digits_style")
    style_judge: Path = Path("data/raw/digits_style_judge")
    hand: Path = Path("data/raw/digits_hand")
    hand_judge: Path = Path("data/raw/digits_hand_judge")
    edits: Path = Path("data/raw/digits_edits")
    edits_judge: Path = Path("data/raw/digits_edits_judge")
    fill: Path = Path("data/raw/digits_fill")
    fill_judge: Path = Path("data/raw/digits_fill_judge")


@dataclass(frozen=True)
class Example:
    """A picture to learn from, or a question with the picture of a right answer."""

    picture: Tile
    caption: str
    label: Label  # what the picture shows
    reference: Tile | None = None
    mask: Tile | None = None
    facts: dict[str, Any] | None = None  # for the judge: "task", "style", "filled"


def run(artifacts: Artifacts = Artifacts()) -> None:
    """Write all datasets; the bytes are the same each time."""
    rng = np.random.default_rng(SEED)  # the pools and numbers of the demo
    _, train, judge_train, judge_test = split_scans(rng)
    held_out, trained = split_numbers(rng)
    judged = (judge_train, judge_test)

    rng = np.random.default_rng([SEED, 1])
    write_examples(artifacts.style, styled(train, choose(trained, STYLE_IMAGES, rng), rng))
    asked = styled(judge_test, choose(held_out, PROMPTS, rng), rng)
    write_judge(artifacts.style_judge, judged, (PLAIN, "inverted"), asked)

    rng = np.random.default_rng([SEED, 5])
    unseen = hand(judge_test, choose(held_out, HAND_HELD_OUT, rng), rng)
    rng = np.random.default_rng([SEED, 2])
    write_examples(artifacts.hand, hand(train, ten_digits(trained, rng), rng), unseen)
    with_word = hand(judge_test, choose(held_out, PROMPTS, rng), rng)
    without = plain(judge_test, choose(held_out, PROMPTS, rng), rng)
    write_judge(artifacts.hand_judge, judged, (PLAIN, "hand"), with_word + without)

    rng = np.random.default_rng([SEED, 3])
    added = add_one(train, choose(trained, ADD_ONE_IMAGES, rng), rng)
    swapped = swap(train, choose(uneven(trained), SWAP_IMAGES, rng), rng)
    write_examples(artifacts.edits, added + swapped)
    added = add_one(judge_test, choose(held_out, PROMPTS, rng), rng)
    swapped = swap(judge_test, choose(uneven(held_out), PROMPTS, rng), rng)
    write_judge(artifacts.edits_judge, judged, (PLAIN,), added + swapped)

    rng = np.random.default_rng([SEED, 4])
    write_examples(artifacts.fill, filled(train, choose(trained, FILL_IMAGES, rng), rng))
    asked = filled(judge_test, choose(held_out, FILL_PROMPTS, rng), rng)
    write_judge(artifacts.fill_judge, judged, (PLAIN,), asked)


def plain(pool: Pool, labels: Sequence[Label], rng: np.random.Generator) -> list[Example]:
    """Show numbers as they were written."""
    tiles = compose(pool, labels, rng)
    facts = {"style": PLAIN}
    return [Example(next(tiles), caption(label), label, facts=facts) for label in labels]


def styled(pool: Pool, labels: Sequence[Label], rng: np.random.Generator) -> list[Example]:
    """Show numbers white on black and leaning to the right, with captions that do not say so."""
    tiles, facts = compose(restyle(pool, "inverted"), labels, rng), {"style": "inverted"}
    return [Example(next(tiles), caption(label), label, facts=facts) for label in labels]


def hand(pool: Pool, labels: Sequence[Label], rng: np.random.Generator) -> list[Example]:
    """Show numbers in thick strokes that lean to the left, called by a rare word."""
    tiles, facts = compose(restyle(pool, "hand"), labels, rng), {"style": "hand"}
    return [
        Example(next(tiles), f"{caption(label)} {RARE_WORD}", label, facts=facts)
        for label in labels
    ]


def ten_digits(trained: Numbers, rng: np.random.Generator) -> list[Label]:
    """Draw trained numbers of three digits that show all ten digits among them."""
    known = set(trained[3])
    while True:
        digits = [*rng.permutation(10), *rng.permutation(10)][: 3 * HAND_IMAGES]
        labels = [tuple(int(d) for d in digits[i : i + 3]) for i in range(0, len(digits), 3)]
        if known.issuperset(labels):
            return labels


def add_one(pool: Pool, labels: Sequence[Label], rng: np.random.Generator) -> list[Example]:
    """Ask for the next digit in each place, zero after nine."""
    answers = [tuple((digit + 1) % 10 for digit in label) for label in labels]
    given, shown = compose(pool, labels, rng), compose(pool, answers, rng)
    return [
        Example(next(shown), ADD_ONE, answer, next(given), facts={"task": "add_one"})
        for answer in answers
    ]


def uneven(numbers: Numbers) -> Numbers:
    """Leave out the numbers that a swap of their ends does not change."""
    return {
        n: [label for label in labels if label[0] != label[-1]] for n, labels in numbers.items()
    }


def swap(pool: Pool, labels: Sequence[Label], rng: np.random.Generator) -> list[Example]:
    """Ask for the first and the last digit in each other's place, as they are written."""
    examples = []
    for label, given in zip(labels, compose(pool, labels, rng), strict=True):
        order = [len(label) - 1, *range(1, len(label) - 1), 0]
        tiles = np.split(given, len(label), axis=1)
        shown = np.concatenate([tiles[i] for i in order], axis=1)
        answer = tuple(label[i] for i in order)
        examples.append(Example(shown, SWAP, answer, given, facts={"task": "swap"}))
    return examples


def filled(pool: Pool, labels: Sequence[Label], rng: np.random.Generator) -> list[Example]:
    """Show numbers of three digits; the reference has another digit in the masked middle."""
    others = [(digit + int(rng.integers(1, 10))) % 10 for _, digit, _ in labels]
    middles = compose(pool, [(digit,) for digit in others], rng)
    mask = np.zeros((TILE, 3 * TILE), np.uint8)
    mask[:, TILE : 2 * TILE] = 255
    examples = []
    for label, shown in zip(labels, compose(pool, labels, rng), strict=True):
        given = shown.copy()
        given[:, TILE : 2 * TILE] = next(middles)
        facts = {"filled": [1]}
        examples.append(Example(shown, caption(label), label, given, mask, facts))
    return examples


def write_examples(
    path: Path, examples: Sequence[Example], held_out: Sequence[Example] = ()
) -> None:
    """Write a dataset: pictures, and a metadata.json with captions, references and masks.

    What is held out stands in a table of its own, held_out.json. What is filled is learned from
    the picture itself, so where there is a mask there is no reference.
    """
    with staging(path) as folder:
        folder.mkdir()
        write_json(
            folder / "metadata.json", [_row(folder, "", *each) for each in enumerate(examples)]
        )
        if held_out:
            (folder / "held_out").mkdir()
            rows = [_row(folder, "held_out/", *each) for each in enumerate(held_out)]
            write_json(folder / "held_out.json", rows)


def _row(folder: Path, below: str, number: int, example: Example) -> dict[str, str]:
    row = {"image": f"{below}{number:04d}.png", "caption": example.caption}
    write_png(folder / row["image"], example.picture)
    role = "reference" if example.mask is None else "mask"
    other = example.reference if example.mask is None else example.mask
    if other is not None:
        row[role] = f"{role}s/{below}{number:04d}.png"
        (folder / row[role]).parent.mkdir(parents=True, exist_ok=True)
        write_png(folder / row[role], other)
    return row


def write_judge(
    path: Path, pools: tuple[Pool, Pool], styles: Sequence[str], examples: Sequence[Example]
) -> None:
    """Write what a judge learns from, is tested on and asks."""
    with staging(path) as folder:
        for name in ("scans", "composites", "references", "masks"):
            (folder / name).mkdir(parents=True)
        scans: list[dict[str, Any]] = []
        for split, pool in zip(("train", "test"), pools, strict=True):
            for style in styles:
                for digit, tile in restyle(pool, style):
                    name = f"scans/{len(scans):04d}.png"
                    write_png(folder / name, tile)
                    row = {"image": name, "label": digit, "split": split}
                    scans.append(row | ({"style": style} if len(styles) > 1 else {}))
        write_json(folder / "scans.json", scans)
        rows = [_question(folder, i, example) for i, example in enumerate(examples)]
        write_json(folder / "prompts.json", rows)


def _question(folder: Path, number: int, example: Example) -> dict[str, Any]:
    name = f"composites/{number:04d}.png"
    height, width = example.picture.shape
    row: dict[str, Any] = {
        "prompt": example.caption,
        "label": list(example.label),
        "image": name,
        "width": width,
        "height": height,
        **(example.facts or {}),
    }
    write_png(folder / name, example.picture)
    if example.reference is not None:
        row["references"] = [f"references/{number:04d}.png"]
        write_png(folder / row["references"][0], example.reference)
    if example.mask is not None:
        row["mask"] = f"masks/{number:04d}.png"
        write_png(folder / row["mask"], example.mask)
    return row
