from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.svm import SVC

from stages.make_digits.digits import SEED, WORDS, split_numbers, split_scans
from stages.make_digits.numbers import Artifacts, run

Tiles = dict[bytes, int]  # of a folder of rows of digits: how often each tile is used


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return make(tmp_path_factory.mktemp("made"))


def make(folder: Path) -> Artifacts:
    artifacts = Artifacts(folder / "digits", folder / "digits_base", folder / "digits_judge")
    run(artifacts)
    return artifacts


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def tiles(folder: Path, names: list[str]) -> Tiles:
    counts: Counter[bytes] = Counter()
    for name in names:
        pixels = np.asarray(Image.open(folder / name))
        assert pixels.shape[0] == 32
        counts.update(part.tobytes() for part in np.split(pixels, pixels.shape[1] // 32, axis=1))
    return counts


def digits(caption: str) -> tuple[int, ...]:
    start, *words = caption.removeprefix("handwritten ").split()
    assert start == "digits"
    return tuple(WORDS.index(word) for word in words)


def test_the_maker_writes_the_same_bytes_each_time(made: Artifacts, tmp_path: Path) -> None:
    again = make(tmp_path)
    for first, second in zip(vars(made).values(), vars(again).values(), strict=True):
        files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
        assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
        assert all((first / f).read_bytes() == (second / f).read_bytes() for f in files)


def test_no_scan_is_in_two_pools(made: Artifacts) -> None:
    pools = [
        tiles(folder, [row["image"] for row in read(folder / "metadata.json")])
        for folder in (made.digits, made.base)
    ]
    scans = read(made.judge / "scans.json")
    for split in ("train", "test"):
        pools.append(tiles(made.judge, [r["image"] for r in scans if r["split"] == split]))
    for i, pool in enumerate(pools):
        assert all(pool.keys().isdisjoint(other) for other in pools[:i])
    composites = tiles(made.judge, [row["image"] for row in read(made.judge / "prompts.json")])
    assert composites.keys() <= pools[3].keys()


def test_each_scan_is_used_about_equally_often(made: Artifacts) -> None:
    rows = read(made.digits / "metadata.json")
    counts = tiles(made.digits, [row["image"] for row in rows])
    assert len(counts) == 700
    assert max(counts.values()) - min(counts.values()) <= 2


def test_captions_say_what_the_picture_shows(made: Artifacts) -> None:
    scans, *_ = split_scans(np.random.default_rng(SEED))
    label_of = {tile.tobytes(): label for label, tile in scans}
    for row in read(made.base / "metadata.json"):
        pixels = np.asarray(Image.open(made.base / row["image"]))
        shown = [label_of[p.tobytes()] for p in np.split(pixels, pixels.shape[1] // 32, axis=1)]
        assert tuple(shown) == digits(row["caption"])


def test_the_dataset_is_an_ordinary_one_of_three_shapes(made: Artifacts) -> None:
    rows = read(made.digits / "metadata.json")
    assert {tuple(sorted(row)) for row in rows} == {("caption", "image")}
    assert Counter(len(digits(row["caption"])) for row in rows) == {1: 300, 2: 600, 3: 900}
    assert len({row["image"] for row in rows}) == len(rows) == len(list(made.digits.glob("*.png")))
    assert {digits(row["caption"]) for row in rows} >= {(d,) for d in range(10)}


def test_held_out_numbers_are_never_trained_on(made: Artifacts) -> None:
    prompts = read(made.judge / "prompts.json")
    asked = {tuple(row["label"]) for row in prompts}
    for folder in (made.digits, made.base):
        shown = {digits(row["caption"]) for row in read(folder / "metadata.json")}
        assert shown.isdisjoint(asked)
    held_out, trained = split_numbers(np.random.default_rng(1))
    assert [len(held_out[n]) for n in (1, 2, 3)] == [0, 35, 500]
    assert all(not set(held_out[n]) & set(trained[n]) for n in (1, 2, 3))
    assert all(len(held_out[n]) + len(trained[n]) == 10**n for n in (1, 2, 3))


def test_prompts_name_their_label_and_the_size_of_their_picture(made: Artifacts) -> None:
    prompts = read(made.judge / "prompts.json")
    assert sum(len(row["label"]) for row in prompts) >= 300
    for row in prompts:
        assert digits(row["prompt"]) == tuple(row["label"])
        image = Image.open(made.judge / row["image"])
        assert image.size == (row["width"], row["height"]) == (32 * len(row["label"]), 32)


def test_a_judge_learns_to_read_unseen_scans(made: Artifacts) -> None:
    rows = read(made.judge / "scans.json")
    parts: dict[str, tuple[list[Any], list[int]]] = {"train": ([], []), "test": ([], [])}
    for row in rows:
        pixels = np.asarray(Image.open(made.judge / row["image"]), np.float64)
        parts[row["split"]][0].append(pixels.reshape(8, 4, 8, 4).mean((1, 3)).ravel())
        parts[row["split"]][1].append(row["label"])
    assert len(parts["train"][1]) >= 500
    assert len(parts["test"][1]) >= 200
    judge = SVC(C=10).fit(*parts["train"])
    assert judge.score(*parts["test"]) >= 0.96
