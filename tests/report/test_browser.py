"""The page as a person sees it, in a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from stages.artifacts import read_json
from tests.report.browser import DARK, LIGHT, document, look
from tests.report.conftest import SIZES
from tests.report.datasets import EDITING, Reported, add, make_editing, report

Pixels = npt.NDArray[np.int64]  # (H, W, 3)
CROP = (255, 46, 136)  # of the line around what is kept
LEFT, RIGHT = (30, 60, 200), (40, 170, 70)  # halves of the test pictures
WIDE, TALL, TELEPHONE = (1200, 2400), (1200, 8000), (520, 3000)  # windows, pixels


def near(
    pixels: Pixels, colour: tuple[int, int, int], tolerance: int = 24
) -> npt.NDArray[np.bool_]:
    return np.abs(pixels - np.array(colour)).max(axis=-1) <= tolerance


def extent(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) of the largest connected part."""
    parts, _ = ndimage.label(mask)
    largest = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
    columns, rows = (np.nonzero(largest.any(axis=axis))[0] for axis in (0, 1))
    return columns[0], rows[0], columns[-1], rows[-1]


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Two equal pictures of 900x400 pixels, blue and green, of which 640x320 cuts a ninth."""
    folder = tmp_path_factory.mktemp("halves")
    image = Image.new("RGB", (900, 400), LEFT)
    ImageDraw.Draw(image).rectangle((450, 0, 899, 399), fill=RIGHT)
    for name in ("a", "b"):
        add(folder / "d", f"{name}.png", image, f"halves of {name}")
    sizes = {"buckets": ["640x320"], "bucket_resolution_steps": 64, "near_duplicate_bits": None}
    return report(folder / "d", folder / "out", SIZES | sizes | {"validation_fraction": 0.0})


def test_a_crop_is_seen_and_what_it_leaves_out_is_dim(halves: Reported, tmp_path: Path) -> None:
    pixels = np.asarray(look(halves.artifacts.page, tmp_path, (1200, 1800))).astype(int)
    kept_left, kept_right = near(pixels, LEFT), near(pixels, RIGHT)
    assert kept_left.sum() > 5_000
    assert kept_right.sum() > 5_000
    blue = kept_left.copy()
    blue[:, 280:] = False  # of the first picture alone
    left, top, right, bottom = extent(blue)
    line = near(pixels, CROP, 60)[top:bottom, max(0, left - 8) : left + 1]
    assert line.any(axis=1).mean() > 0.9  # along the whole left side of what is kept
    dim = pixels[(top + bottom) // 2, left - 12]
    assert dim.max() < 110
    assert dim[2] > dim[0] + 20  # and still blue
    height = bottom - top
    assert (right - left) / height == pytest.approx(1.0, abs=0.1)  # half of 800 by 400


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
@pytest.mark.parametrize("size", [WIDE, TELEPHONE])
def test_the_page_is_no_blank_sheet(
    lifelike: Reported, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    pixels = np.asarray(look(lifelike.artifacts.page, tmp_path, size, scheme)).astype(int)
    assert pixels.shape == (size[1], size[0], 3)
    for part in np.array_split(pixels, 6):
        assert part.std() > 3
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    assert (ground.min() > 230) if scheme == LIGHT else (ground.max() < 50)


def test_nothing_stands_out_of_a_telephone(lifelike: Reported, tmp_path: Path) -> None:
    pixels = np.asarray(look(lifelike.artifacts.page, tmp_path, TELEPHONE)).astype(int)
    margin = pixels[300:, -8:]  # below the bar of links, which may go on
    assert near(margin, tuple(pixels[5, 5]), 3).mean() > 0.99


def test_photographs_are_seen_in_their_colours(lifelike: Reported, tmp_path: Path) -> None:
    pixels = np.asarray(look(lifelike.artifacts.page, tmp_path, TALL)).astype(int)
    red = near(pixels, (200, 60, 80), 12)  # of the sticker
    left, top, right, bottom = extent(red)
    assert (right - left) / (bottom - top) == pytest.approx(480 / 380, rel=0.06)
    assert red[top:bottom, left:right].mean() > 0.7  # an ellipse fills 79 % of its box
    assert near(pixels, CROP, 20).sum() > 3_000


def test_the_browser_has_the_sums_and_all_the_pictures(lifelike: Reported, tmp_path: Path) -> None:
    found = document(lifelike.artifacts.page, tmp_path)
    numbers = read_json(lifelike.artifacts.metrics)
    start = found.index('id="sum"')
    said = found[start : found.index("</p>", start)]
    shown = [int(part.split("</b>")[0]) for part in said.split("<b>")[1:]]
    names = ("files", "train", "validation", "excluded", "quarantined")
    assert shown == [numbers[name] for name in names]
    assert shown[0] == sum(shown[1:])
    assert found.count("<image ") == 55


def test_masks_and_references_are_seen(tmp_path: Path) -> None:
    root = make_editing(tmp_path / "edits", 3)
    magenta = Image.new("RGB", (700, 500), (250, 0, 250))
    add(root, "style/0.jpg", magenta, None)
    made = report(root, tmp_path / "out", SIZES | EDITING)
    pixels = np.asarray(look(made.artifacts.page, tmp_path, (1200, 2400))).astype(int)
    left, top, right, bottom = extent(near(pixels, (250, 0, 250), 14))
    assert 40 < right - left < 120
    assert 30 < bottom - top < 90


def test_a_page_that_asks_for_more_is_refused_it(tmp_path: Path, lifelike: Reported) -> None:
    page = tmp_path / "asking.html"
    asking = lifelike.html.replace("<main>", '<main><img src="other.png">')
    page.write_text(asking, encoding="utf-8")
    Image.new("RGB", (400, 400), (1, 254, 1)).save(tmp_path / "other.png")
    pixels = np.asarray(look(page, tmp_path, (1200, 900))).astype(int)
    assert not near(pixels, (1, 254, 1), 3).any()
