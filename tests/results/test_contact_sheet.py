from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from stages.contact_sheet import (
    LARGEST_SIDE,
    MARGIN,
    RED,
    Cell,
    Section,
    draw_sheet,
    enlargement,
    wrap,
    write_sheet,
)

GREEN = (0, 160, 0)


def picture(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GREEN, np.uint8)


def count(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == colour).all(axis=-1).sum())


def test_small_pictures_are_enlarged_and_large_ones_shrunk_by_one_factor() -> None:
    assert enlargement([picture(32, 32), picture(96, 32)], 4) == 4
    assert enlargement([picture(32, 32), picture(128, 32)], 4) == 3
    assert enlargement([picture(1024, 768)], 4) == LARGEST_SIDE / 1024
    assert enlargement([picture(32, 32)], 2) == 2


def test_every_picture_is_on_the_sheet_in_full() -> None:
    cells = tuple(Cell(picture(96, 32), f"number {i}") for i in range(7))
    sheet = draw_sheet("title", [Section("96 x 32", cells)])
    assert count(sheet, GREEN) == 7 * (4 * 96) * (4 * 32)


def test_a_wide_picture_widens_the_sheet_instead_of_being_cut() -> None:
    wide = picture(384, 4)
    sheet = draw_sheet("t", [Section("s", tuple(Cell(wide, "x") for _ in range(5)))])
    assert count(sheet, GREEN) == 5 * wide[:, :, 0].size


def test_parts_that_are_wrong_are_framed_in_red_around_the_part() -> None:
    framed = Cell(picture(64, 32), "label", "", ((32, 0, 64, 32),))
    plain = Cell(picture(64, 32), "label")
    assert count(draw_sheet("t", [Section("s", (plain,))]), RED) == 0
    sheet = np.asarray(draw_sheet("t", [Section("s", (framed,))]))
    rows, columns = np.nonzero((sheet == RED).all(axis=-1))
    assert (columns.min(), columns.max()) == (MARGIN + 4 * 32, MARGIN + 4 * 64 - 1)
    assert rows.max() - rows.min() == 4 * 32 - 1


def test_long_labels_wrap_and_the_next_row_starts_below_them() -> None:
    font = ImageFont.load_default(size=15)
    label = "a very long label that does not fit under a small picture at all"
    lines = wrap(label, font, 120)
    assert len(lines) > 2
    assert " ".join(lines) == label
    assert all(font.getlength(line) <= 120 for line in lines)
    assert all(font.getlength(line) <= 50 for line in wrap("x" * 60, font, 50))
    short = draw_sheet("t", [Section("s", (Cell(picture(32, 32), "a"),))])
    long = draw_sheet("t", [Section("s", (Cell(picture(32, 32), label),))])
    assert long.height > short.height


def test_a_sheet_without_pictures_still_says_its_title(tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.png", "no judge", [])
    assert np.asarray(Image.open(tmp_path / "sheet.png")).min() < 100


def test_the_same_pictures_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_sheet(tmp_path / name, "t", [Section("s", (Cell(picture(8, 8), "x"),))])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
