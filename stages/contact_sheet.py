"""Draw pictures with their labels on one white sheet that a person can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stages.artifacts import staging

Picture = NDArray[np.uint8]  # (H, W, 3)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the picture

SHEET_WIDTH = 1400  # pixels; a single wider picture widens the sheet
LARGEST_SIDE = 384  # pixels of the longest side of a picture on the sheet
FACTOR = 4  # small pictures are enlarged so far and no further
MARGIN = 24
GAP = 20
LABEL_SIZE, HEADING_SIZE, TITLE_SIZE = 15, 19, 26  # font sizes in pixels
LINE = 1.3  # height of a line of text in font sizes
MIN_CELL_WIDTH = 132  # pixels: room for a label under a narrow picture
INK, GREY, OUTLINE, RED = (20, 20, 20), (90, 90, 90), (205, 205, 205), (208, 20, 28)


@dataclass(frozen=True)
class Cell:
    """A picture, what it should show, and what is wrong with it: parts in red frames and a note."""

    picture: Picture
    label: str
    note: str = ""
    frames: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Section:
    """Pictures that stand together under one heading."""

    heading: str
    cells: tuple[Cell, ...]


@dataclass
class _Page:
    """What is to be drawn, collected top down before the height of the sheet is known."""

    width: int
    y: int = MARGIN
    texts: list[tuple[int, int, str, int, tuple[int, int, int]]] = field(default_factory=list)
    pictures: list[tuple[int, int, Cell, float]] = field(default_factory=list)

    def text(self, x: int, text: str, size: int, colour: tuple[int, int, int], width: int) -> int:
        """Add wrapped lines at `x` from the present height on; return the height below them."""
        y = self.y
        for line in wrap(text, _font(size), width):
            self.texts.append((x, y, line, size, colour))
            y += round(size * LINE)
        return y


def write_sheet(
    path: Path, title: str, sections: Sequence[Section], max_factor: int = FACTOR
) -> None:
    """Write the sheet as a PNG whose bytes depend on the arguments alone."""
    with staging(path) as staged:
        draw_sheet(title, sections, max_factor).save(
            staged, format="PNG", optimize=False, compress_level=6
        )


def draw_sheet(title: str, sections: Sequence[Section], max_factor: int = FACTOR) -> Image.Image:
    """Lay the sections out one below the other, each in rows that fill the sheet's width."""
    pictures = [cell.picture for section in sections for cell in section.cells]
    factor = enlargement(pictures, max_factor)
    widths = [_cell_width(cell, factor) for section in sections for cell in section.cells]
    page = _Page(max([SHEET_WIDTH, *(width + 2 * MARGIN for width in widths)]))
    page.y = page.text(MARGIN, title, TITLE_SIZE, INK, page.width - 2 * MARGIN) + GAP
    for section in sections:
        page.y = page.text(MARGIN, section.heading, HEADING_SIZE, GREY, page.width - 2 * MARGIN)
        page.y += GAP // 2
        _lay_out(page, section.cells, factor)
        page.y += GAP
    return _draw(page)


def enlargement(pictures: Sequence[Picture], max_factor: int) -> float:
    """Return the one factor for all pictures: a whole number, or below 1 for large pictures."""
    longest = max((max(picture.shape[:2]) for picture in pictures), default=LARGEST_SIDE)
    if longest > LARGEST_SIDE:
        return LARGEST_SIDE / longest
    return min(max_factor, LARGEST_SIDE // longest)


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Break `text` into lines of at most `width` pixels; a longer word is cut."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]


def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)  # bundled with Pillow


def _cell_width(cell: Cell, factor: float) -> int:
    return max(MIN_CELL_WIDTH, round(cell.picture.shape[1] * factor))


def _lay_out(page: _Page, cells: Sequence[Cell], factor: float) -> None:
    x, below = MARGIN, page.y
    for cell in cells:
        width, height = _cell_width(cell, factor), round(cell.picture.shape[0] * factor)
        if x > MARGIN and x + width > page.width - MARGIN:
            x, page.y = MARGIN, below + GAP
        top = page.y
        page.pictures.append((x, top, cell, factor))
        page.y = top + height + 6
        page.y = page.text(x, cell.label, LABEL_SIZE, INK, width)
        page.y = page.text(x, cell.note, LABEL_SIZE, RED, width)
        below = max(below, page.y)
        page.y = top
        x += width + GAP
    page.y = below


def _draw(page: _Page) -> Image.Image:
    ends = [x + _cell_width(cell, factor) for x, _, cell, factor in page.pictures]
    ends += [x + round(_font(size).getlength(line)) for x, _, line, size, _ in page.texts]
    sheet = Image.new("RGB", (max(ends) + MARGIN, page.y + MARGIN // 2), "white")
    pen = ImageDraw.Draw(sheet)
    for x, y, cell, factor in page.pictures:
        height, width = (round(side * factor) for side in cell.picture.shape[:2])
        filter_ = Image.Resampling.BICUBIC if factor >= 1 else Image.Resampling.LANCZOS
        sheet.paste(Image.fromarray(cell.picture).resize((width, height), filter_), (x, y))
        pen.rectangle((x - 1, y - 1, x + width, y + height), outline=OUTLINE)
        for box in cell.frames:
            left, top, right, bottom = (round(side * factor) for side in box)
            pen.rectangle((x + left, y + top, x + right - 1, y + bottom - 1), outline=RED, width=3)
    for x, y, line, size, colour in page.texts:
        pen.text((x, y), line, fill=colour, font=_font(size))
    return sheet
