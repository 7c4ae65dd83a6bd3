"""Which pictures a contact sheet shows, and what of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from stages.report_dataset.inputs import read_inputs
from stages.report_dataset.sheets import CELLS, Box, choose, create_sheets, crop_box
from tests.report.conftest import SIZES
from tests.report.datasets import EDITING, Reported, add, make_editing, prepare, scene


def test_every_bucket_has_a_sheet_with_all_of_few_pictures(lifelike: Reported) -> None:
    inputs = read_inputs(lifelike.artifacts.places)
    sheets = create_sheets(inputs)
    reported = {
        (row["bucket"], int(row["num_images"]) + int(row["num_validation"]))
        for row in inputs.bucket_report
    }
    assert {(sheet.bucket, sheet.total) for sheet in sheets} == reported
    shown = [cell.target.path for sheet in sheets for cell in sheet.cells]
    assert sorted(shown) == sorted(row["path"] for row in inputs.first_crops)


@pytest.mark.parametrize("room", [5, 11, 23, 40])
def test_sheets_keep_to_the_room_there_is(lifelike: Reported, room: int) -> None:
    sheets = create_sheets(read_inputs(lifelike.artifacts.places), room)
    shown = [1 + len(cell.others) for sheet in sheets for cell in sheet.cells]
    assert 0 < sum(shown) <= room
    assert len({sheet.bucket for sheet in sheets}) == 11  # those without room are named


def row(name: int, cut: int) -> dict[str, object]:
    size = {"width": 100, "height": 100, "resize_width": 100 + cut, "resize_height": 100}
    return {"path": f"{name:03}.jpg", "sample_id": f"s{name}", **size}


def test_of_many_pictures_those_that_lose_most_come_first_and_others_evenly() -> None:
    rows = [row(i, cut=90 if i in (51, 52) else i % 10) for i in range(100)]
    chosen, num_most_cut = choose(rows, 9)
    assert num_most_cut == 3
    assert [each["path"] for each in chosen[:2]] == ["051.jpg", "052.jpg"]
    rest = [int(str(each["path"])[:3]) for each in chosen[3:]]
    assert rest == sorted(rest)
    assert max(b - a for a, b in pairwise(rest)) < 25
    assert choose(rows[::-1], 9) == (chosen, num_most_cut)
    assert choose(rows[:9], 9) == (rows[:9], 0)
    uncut = [row(i, cut=0) for i in range(100)]
    assert choose(uncut, CELLS)[1] == 0


def test_a_crop_is_drawn_where_it_lies_in_the_whole_picture() -> None:
    geometry = {
        "original_width": 800,
        "original_height": 600,
        "resize_width": 400,
        "resize_height": 300,
        "crop_left": 50,
        "crop_top": 0,
        "width": 300,
        "height": 300,
    }
    assert crop_box(geometry) == Box(100, 0, 600, 600)


def test_references_and_masks_stand_beside_their_target_with_crops_of_their_own(
    tmp_path: Path,
) -> None:
    made = prepare(make_editing(tmp_path / "edits"), tmp_path / "out", SIZES | EDITING)
    sheets = create_sheets(read_inputs(made.artifacts.places))
    cells = {cell.target.path: cell for sheet in sheets for cell in sheet.cells}
    others = {shot.label: shot for shot in cells["0.png"].others}
    assert list(others) == ["reference 1", "reference 2", "mask"]
    assert others["mask"].path == "mask/0.png"
    assert others["mask"].crops == cells["0.png"].target.crops
    assert others["reference 2"].width == 700


def test_variants_are_distinct_crops_and_a_mirror_image_is_told(tmp_path: Path) -> None:
    for i in range(3):
        add(tmp_path / "d", f"{i}.png", scene(i, 900, 600), f"scene {i}")
    variants = {"crop": "random", "crop_variants": 3, "flip": True, "validation_fraction": 0.0}
    made = prepare(tmp_path / "d", tmp_path / "out", SIZES | variants)
    inputs = read_inputs(made.artifacts.places)
    (sheet,) = create_sheets(inputs)
    assert all(cell.is_flipped for cell in sheet.cells)
    assert max(cell.num_crops for cell in sheet.cells) == 3
    unflipped = [row | {"flipped": False} for row in inputs.buckets]
    (sheet,) = create_sheets(replace(inputs, buckets=unflipped))
    assert not any(cell.is_flipped for cell in sheet.cells)


def test_a_picture_at_two_resolutions_stands_in_two_sheets(tmp_path: Path) -> None:
    add(tmp_path / "d", "a.png", scene(1, 900, 900), "one")
    add(tmp_path / "d", "b.png", scene(2, 900, 900), "two")
    sizes = SIZES | {"resolutions": [256]}
    made = prepare(tmp_path / "d", tmp_path / "out", sizes)
    sheets = create_sheets(read_inputs(made.artifacts.places))
    assert [(sheet.bucket, sheet.resolution, sheet.total) for sheet in sheets] == [
        ("256x256", 256, 2),
        ("512x512", 512, 2),
    ]
