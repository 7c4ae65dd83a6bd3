from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.ingest import near
from stages.ingest.duplicates import leaks, near_duplicates
from stages.ingest.near import close_pairs, nearest, to_hashes
from stages.ingest.pictures import FLAT, perceptual_hash
from stages.params.data import Dataset
from tests.data.conftest import picture
from tests.data.ingesting import ingest


def photo(seed: int, size: int = 320) -> Image.Image:
    """Something with shapes: a few colours, enlarged smoothly."""
    return picture(seed, 9, 7).resize((size, size * 3 // 4), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.resize((image.width // 2, image.height // 2)).save(file, "jpeg", quality=60)
    return Image.open(file)


def bits_between(first: Image.Image, second: Image.Image) -> int:
    a, b = to_hashes([perceptual_hash(first), perceptual_hash(second)]).tolist()
    return (a ^ b).bit_count()


def two_splits(folder: Path) -> Path:
    """Three photos to train on, and two to validate: one of them is trained on, twice as large."""
    for split in ("train", "held_out"):
        (folder / split).mkdir(parents=True)
    for i in range(3):
        photo(i).save(folder / f"train/{i}.png")
    recompressed(photo(1)).save(folder / "held_out/small.png")
    photo(7).save(folder / "held_out/new.png")
    return folder


PARTS = [Dataset("train", split="train"), Dataset("held_out", split="validation")]


@pytest.mark.parametrize("seed", range(4))
def test_half_the_size_at_low_quality_is_a_near_duplicate(seed: int) -> None:
    assert bits_between(photo(seed, 640), recompressed(photo(seed, 640))) <= 4


def test_other_photos_are_not() -> None:
    photos = [photo(seed) for seed in range(8)]
    assert min(bits_between(a, b) for i, a in enumerate(photos) for b in photos[:i]) > 12


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (10000, 1), (3, 200)])
def test_every_shape_has_a_hash(size: tuple[int, int]) -> None:
    assert len(perceptual_hash(picture(1, *size))) == 16


@pytest.mark.parametrize("colour", ["black", "white", "red"])
def test_a_picture_that_shows_nothing_is_nobodys_near_duplicate(
    tmp_path: Path, colour: str
) -> None:
    assert perceptual_hash(Image.new("RGB", (64, 48), colour)) == FLAT
    (tmp_path / "flat").mkdir()
    for i in range(3):
        Image.new("RGB", (64 + i, 48), colour).save(tmp_path / f"flat/{i}.png")
    assert ingest(tmp_path / "flat", tmp_path / "out").summary["near_duplicates"] == []


HASHES = st.lists(
    st.integers(0, 2**64 - 1) | st.integers(0, 3) | st.sampled_from([2**63 + 5, 2**40, 2**64 - 1]),
    max_size=30,
)


@given(HASHES, st.integers(0, 16))
def test_close_pairs_are_those_of_comparing_each_with_each(values: list[int], bits: int) -> None:
    firsts = {value: values.index(value) for value in values}
    expected = {(firsts[v], i, 0) for i, v in enumerate(values) if firsts[v] != i}
    expected |= {
        (min(firsts[a], firsts[b]), max(firsts[a], firsts[b]), (a ^ b).bit_count())
        for a in firsts
        for b in firsts
        if a != b and (a ^ b).bit_count() <= bits
    }
    assert close_pairs(np.array(values, np.uint64), bits) == sorted(expected)


@given(st.lists(st.integers(0, 2**64 - 1)), st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_the_nearest_hash_is_that_of_fewest_bits(values: list[int], others: list[int]) -> None:
    places, bits = nearest(np.array(values, np.uint64), np.array(others, np.uint64))
    for value, place, count in zip(values, places, bits, strict=True):
        assert count == (value ^ others[place]).bit_count()
        assert count == min((value ^ other).bit_count() for other in others)


@pytest.mark.parametrize("kind", ["random", "few bits", "all equal"])
def test_a_hundred_thousand_hashes_take_seconds(kind: str) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    if kind == "few bits":
        hashes &= np.uint64(0x0101_0303_0707_0F0F)  # many near duplicates of many
    if kind == "all equal":
        hashes[:] = 5
    start = time.monotonic()
    pairs = close_pairs(hashes, 4)
    assert time.monotonic() - start < 20
    assert len(pairs) < 2 * near.MOST_PAIRS


def test_equal_samples_are_reported_and_left_out_where_asked_for(
    eight_images: Path, tmp_path: Path
) -> None:
    rows = json.loads((eight_images / "metadata.json").read_text())
    shutil.copy(eight_images / "2.png", eight_images / "other.png")
    shutil.copy(eight_images / "2.png", eight_images / "same.png")
    rows += [{"image": "same.png", "caption": "picture 2"}, {"image": "other.png", "caption": "x"}]
    (eight_images / "metadata.json").write_text(json.dumps(rows))
    found = ingest(eight_images, tmp_path / "out")
    assert found.summary["exact_duplicates"] == [["2.png", "same.png"]]
    assert found.summary["exact_duplicates_total"] == 1
    assert len(found.rows) == 10
    found = ingest(eight_images, tmp_path / "out", exact_duplicates="exclude")
    assert found.fates["same.png"] == (
        "excluded",
        "the same as 2.png (data.exact_duplicates is 'exclude')",
    )
    assert len(found.rows) == 9
    assert {row["sample_id"][20:] for row in found.rows} == {"", "-1"}


def test_near_duplicates_are_reported_with_their_bits(tmp_path: Path) -> None:
    folder = two_splits(tmp_path / "photos")
    found = ingest(folder, tmp_path / "out")
    (pair,) = found.summary["near_duplicates"]
    assert pair["paths"] == ["held_out/small.png", "train/1.png"]
    assert 0 <= pair["bits"] <= 4
    off = ingest(folder, tmp_path / "out", near_duplicate_bits=None)
    assert off.summary["near_duplicates_total"] == 0


def test_a_validation_picture_like_one_trained_on_is_reported(tmp_path: Path) -> None:
    found = ingest(two_splits(tmp_path / "photos"), tmp_path / "out", datasets=PARTS)
    (leak,) = found.summary["leaked"]
    assert (leak["train"], leak["validation"]) == ("train/1.png", "held_out/small.png")
    assert found.fates["held_out/small.png"] == ("validation", "")


def test_a_leak_is_left_out_where_asked_for_and_names_the_training_picture(tmp_path: Path) -> None:
    folder = two_splits(tmp_path / "photos")
    shutil.copy(folder / "train/2.png", folder / "held_out/copy.png")
    found = ingest(folder, tmp_path / "out", datasets=PARTS, leakage="exclude")
    assert found.fates["held_out/copy.png"] == (
        "excluded",
        "the same picture as train/2.png, which is trained on (data.leakage is 'exclude')",
    )
    fate, reason = found.fates["held_out/small.png"]
    assert fate == "excluded"
    assert reason.endswith("of 64 bits from train/1.png, which is trained on "
                           "(data.leakage is 'exclude')")  # fmt: skip
    assert found.fates["held_out/new.png"] == ("validation", "")
    exact_only = ingest(
        folder, tmp_path / "out", datasets=PARTS, leakage="exclude", near_duplicate_bits=None
    )
    assert exact_only.fates["held_out/small.png"] == ("validation", "")
    assert exact_only.fates["held_out/copy.png"][0] == "excluded"


def test_no_samples_have_no_duplicates() -> None:
    assert near_duplicates([], 4) == []
    assert leaks([], 4) == {}
