from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.artifacts import write_table
from stages.bucket import Artifacts, Params, choose, geometry, run
from stages.pixels import crop_to_bucket
from stages.tables import to_table

DIGITS = Params(resolution=64, steps=32, min_side=32, max_side=128, no_upscale=True)
PHOTOS = Params(resolution=1024, steps=64, min_side=512, max_side=2048, no_upscale=True)
ENLARGED = Params(resolution=1024, steps=64, min_side=512, max_side=2048, no_upscale=False)
Rows = Callable[[Path, str], list[dict[str, Any]]]


def image_row(width: int, height: int, name: str = "a", split: str = "train") -> dict[str, Any]:
    sizes = {"width": width, "height": height}
    names = {"sample_id": name, "content": name, "path": f"{name}.png", "caption": f"of {name}"}
    return {**names, **sizes, "split": split, "role": "target"}


def workspace(folder: Path, rows: Sequence[dict[str, Any]], captions: list[str]) -> Artifacts:
    out = Artifacts(
        folder / "images.parquet",
        folder / "captions.parquet",
        folder / "buckets.parquet",
        folder / "buckets.csv",
        folder / "ledger.parquet",
    )
    write_table(out.images, to_table(rows, "images"), "images")
    named = [{"sample_id": name, "caption": f"of {name}"} for name in captions]
    write_table(out.captions, to_table(named, "captions"), "captions")
    return out


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (96, 32)])
def test_digits_keep_their_size(size: tuple[int, int]) -> None:
    assert choose(*size, DIGITS) == size


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1920, 1088), (1344, 768)),  # not 1024x576, whose aspect ratio is closer by accident
        ((1088, 1920), (768, 1344)),
        ((1000, 1000), (960, 960)),
        ((5000, 5000), (1024, 1024)),
        ((700, 600), (640, 576)),
        ((9000, 600), (2048, 512)),
    ],
)
def test_a_picture_gets_the_closest_aspect_ratio_that_needs_no_enlarging(
    size: tuple[int, int], bucket: tuple[int, int]
) -> None:
    assert choose(*size, PHOTOS) == bucket


def test_a_small_picture_is_enlarged_only_where_that_is_allowed() -> None:
    assert choose(300, 300, PHOTOS) is None
    assert choose(300, 300, ENLARGED) == (1024, 1024)


@pytest.mark.parametrize("params", [DIGITS, PHOTOS, ENLARGED])
def test_any_geometry_covers_its_bucket_and_keeps_the_aspect_ratio(params: Params) -> None:
    numbers = random.Random(7)
    for _ in range(400):
        width, height = (int(2 ** numbers.uniform(5, 12.5)) for _ in range(2))
        bucket = choose(width, height, params)
        if bucket is None:
            assert params.no_upscale
            assert min(width, height) < params.min_side
            continue
        row = geometry(image_row(width, height), bucket)
        resized, crop = (row["resize_width"], row["resize_height"]), (row["width"], row["height"])
        corner = (row["crop_left"], row["crop_top"])
        assert crop == bucket
        assert all(side % params.steps == 0 for side in bucket)
        assert params.min_side <= min(bucket)
        assert max(bucket) <= params.max_side
        assert bucket[0] * bucket[1] <= params.resolution**2
        assert all(c >= 0 and c + b <= r for c, b, r in zip(corner, bucket, resized, strict=True))
        assert any(b == r for b, r in zip(bucket, resized, strict=True))
        scale = max(Fraction(bucket[0], width), Fraction(bucket[1], height))
        assert abs(resized[0] - width * scale) <= Fraction(1, 2)
        assert abs(resized[1] - height * scale) <= Fraction(1, 2)
        if params.no_upscale:
            assert resized[0] <= width
            assert resized[1] <= height


@pytest.mark.parametrize("size", [(33, 47), (101, 32), (63, 65), (32, 511), (127, 33)])
def test_odd_sizes_are_cut_to_exactly_the_bucket(size: tuple[int, int]) -> None:
    bucket = choose(*size, DIGITS)
    assert bucket is not None
    cut = crop_to_bucket(Image.new("RGB", size, "red"), geometry(image_row(*size), bucket))
    assert cut.shape == (bucket[1], bucket[0], 3)
    assert np.all(cut == [255, 0, 0])


def test_every_captioned_sample_is_in_a_bucket_or_excluded_with_a_reason(
    tmp_path: Path, rows_of: Rows
) -> None:
    rows = [
        image_row(32, 32, "a"),
        image_row(20, 32, "b"),
        image_row(64, 32, "c", "validation"),
        image_row(33, 32, "d"),
        image_row(64, 64, "uncaptioned"),
    ]
    out = workspace(tmp_path, rows, ["a", "b", "c", "d"])
    run(DIGITS, out)
    assert [(r["sample_id"], r["bucket"]) for r in rows_of(out.buckets, "buckets")] == [
        ("a", "32x32"),
        ("c", "64x32"),
        ("d", "32x32"),
    ]
    fates = {row["path"]: (row["fate"], row["reason"]) for row in rows_of(out.ledger, "ledger")}
    fate, reason = fates.pop("b.png")
    assert fate == "excluded"
    assert "smaller than the smallest bucket 32x32" in reason
    assert "data.no_upscale is true" in reason
    assert fates == {"a.png": ("kept", ""), "c.png": ("validation", ""), "d.png": ("kept", "")}
    with out.report.open() as file:
        report = list(csv.DictReader(file))
    assert report == [
        {"bucket": "32x32", "width": "32", "height": "32", "num_images": "2"},
        {"bucket": "64x32", "width": "64", "height": "32", "num_images": "1"},
    ]


def test_a_changed_caption_changes_no_byte(tmp_path: Path) -> None:
    rows = [image_row(32, 32, "a"), image_row(64, 32, "b")]
    out = workspace(tmp_path, rows, ["a", "b"])
    run(DIGITS, out)
    before = [path.read_bytes() for path in (out.buckets, out.report, out.ledger)]
    edited = [{**row, "caption": "edited"} for row in rows]
    write_table(out.images, to_table(edited, "images"), "images")
    captions = [{"sample_id": name, "caption": "edited"} for name in ("a", "b")]
    write_table(out.captions, to_table(captions, "captions"), "captions")
    run(DIGITS, out)
    assert [path.read_bytes() for path in (out.buckets, out.report, out.ledger)] == before


def test_pictures_that_are_all_too_small_are_one_sentence(tmp_path: Path) -> None:
    out = workspace(tmp_path, [image_row(20, 20)], ["a"])
    with pytest.raises(ValueError, match="none of 1 pictures fits a bucket, all are smaller"):
        run(DIGITS, out)
    assert not out.buckets.exists()
    assert not out.ledger.exists()


def test_captions_of_other_images_are_refused(tmp_path: Path) -> None:
    out = workspace(tmp_path, [image_row(32, 32)], ["a", "gone"])
    with pytest.raises(ValueError, match="names 1 samples that are not in"):
        run(DIGITS, out)
