"""The datasets of the training methods: what they show, and that nothing asked was learned."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.make_digits.digits import SEED, WORDS, Pool, Tile, split_numbers, split_scans
from stages.make_digits.styles import STYLES, restyle
from stages.make_digits.tasks import ADD_ONE, Artifacts, run

NAMES = [field.name for field in dataclasses.fields(Artifacts)]
TASKS = ("style", "hand", "edits", "fill")


def make(folder: Path) -> Artifacts:
    artifacts = Artifacts(*(folder / name for name in NAMES))
    run(artifacts)
    return artifacts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def pools() -> list[Pool]:
    return split_scans(np.random.default_rng(SEED))


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / name).read_text())
    return entries


def tiles(path: Path) -> list[Tile]:
    pixels = np.asarray(Image.open(path))
    return np.split(pixels, pixels.shape[1] // 32, axis=1)


def reader(pool: Pool) -> dict[bytes, tuple[int, str]]:
    """Tell the digit and the style of every tile of a pool."""
    styled = ((style, restyle(pool, style)) for style in STYLES)
    return {tile.tobytes(): (digit, style) for style, pool in styled for digit, tile in pool}


def shown(path: Path, known: dict[bytes, tuple[int, str]]) -> tuple[tuple[int, ...], set[str]]:
    read = [known[tile.tobytes()] for tile in tiles(path)]
    return tuple(digit for digit, _ in read), {style for _, style in read}


def number(caption: str) -> tuple[int, ...]:
    words = caption.removeprefix("handwritten digits ").removesuffix(" sks").split()
    return tuple(WORDS.index(word) for word in words)


def test_the_bytes_are_the_same_each_time(made: Artifacts, tmp_path: Path) -> None:
    again = make(tmp_path)
    for name in NAMES:
        first, second = getattr(made, name), getattr(again, name)
        files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
        assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
        assert all((first / f).read_bytes() == (second / f).read_bytes() for f in files)


@pytest.mark.parametrize(("name", "style"), [("style", "inverted"), ("hand", "hand")])
def test_pictures_of_a_style_show_their_captions_in_it(
    made: Artifacts, pools: list[Pool], name: str, style: str
) -> None:
    folder, known = getattr(made, name), reader(pools[1])
    for row in rows(folder, "metadata.json"):
        assert shown(folder / row["image"], known) == (number(row["caption"]), {style})


def test_a_hand_is_five_pictures_with_all_digits_called_by_a_rare_word(made: Artifacts) -> None:
    captions = [row["caption"] for row in rows(made.hand, "metadata.json")]
    assert len(captions) == 5
    assert all(re.fullmatch(r"handwritten digits (\w+ )+sks", caption) for caption in captions)
    assert {digit for caption in captions for digit in number(caption)} == set(range(10))


def test_what_is_held_out_of_the_hand_is_of_numbers_and_scans_of_its_own(
    made: Artifacts, pools: list[Pool]
) -> None:
    held_out, _ = split_numbers_of_the_digits()
    known, found = reader(pools[3]), rows(made.hand, "held_out.json")
    assert len(found) == 30
    for row in found:
        label, styles = shown(made.hand / row["image"], known)
        assert (label, styles) == (number(row["caption"]), {"hand"})
        assert label in held_out[3]


def test_an_edit_leads_from_its_reference_to_its_picture(
    made: Artifacts, pools: list[Pool]
) -> None:
    known, counts = reader(pools[1]), Counter[str]()
    for row in rows(made.edits, "metadata.json"):
        given, _ = shown(made.edits / row["reference"], known)
        answer, _ = shown(made.edits / row["image"], known)
        counts[row["caption"]] += 1
        if row["caption"] == ADD_ONE:
            assert answer == tuple((digit + 1) % 10 for digit in given)
        else:
            before, after = tiles(made.edits / row["reference"]), tiles(made.edits / row["image"])
            expected = [before[-1], *before[1:-1], before[0]]
            assert all((one == other).all() for one, other in zip(expected, after, strict=True))
            assert answer != given
    assert counts == {ADD_ONE: 900, "swap the ends": 900}


def test_the_middle_is_masked_and_the_caption_says_what_becomes_of_it(
    made: Artifacts, pools: list[Pool]
) -> None:
    known = reader(pools[1])
    for row in rows(made.fill, "metadata.json")[:200]:
        assert shown(made.fill / row["image"], known)[0] == number(row["caption"])
        assert [int(tile.mean()) for tile in tiles(made.fill / row["mask"])] == [0, 255, 0]
    known = reader(pools[3])
    for row in rows(made.fill_judge, "prompts.json"):
        given, answer = (
            tiles(
                made.fill_judge / row[name] if name == "image" else made.fill_judge / row[name][0]
            )
            for name in ("references", "image")
        )
        changed = [bool((one != other).any()) for one, other in zip(given, answer, strict=True)]
        assert changed == [False, True, False]
        assert known[given[1].tobytes()][0] != row["label"][1]


@pytest.mark.parametrize("task", TASKS)
def test_what_is_asked_was_never_learned(made: Artifacts, pools: list[Pool], task: str) -> None:
    """Neither the numbers nor the scans."""
    held_out, _ = split_numbers_of_the_digits()
    learned = getattr(made, task)
    seen = [number(r["caption"]) for r in rows(learned, "metadata.json") if task != "edits"]
    assert not {*held_out[2], *held_out[3]} & set(seen)
    folder, known = getattr(made, f"{task}_judge"), reader(pools[3])
    for row in rows(folder, "prompts.json"):
        read, styles = shown(folder / row["image"], known)
        assert read == tuple(row["label"])
        assert styles == {row.get("style", "plain")}
        asked = shown(folder / row["references"][0], known)[0] if task == "edits" else read
        assert asked in held_out[len(asked)]


def split_numbers_of_the_digits() -> tuple[Any, Any]:
    rng = np.random.default_rng(SEED)
    split_scans(rng)
    return split_numbers(rng)


def test_references_of_edits_are_of_trained_numbers(made: Artifacts, pools: list[Pool]) -> None:
    held_out, _ = split_numbers_of_the_digits()
    known = reader(pools[1])
    given = {
        shown(made.edits / row["reference"], known)[0] for row in rows(made.edits, "metadata.json")
    }
    assert not {*held_out[2], *held_out[3]} & given
