"""Make the picture of docs/data.md: `python -m tests.report.picture`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.report.browser import DARK, LIGHT, look
from tests.report.conftest import SIZES
from tests.report.datasets import add, make_lifelike, photographs, report

PICTURE = Path(__file__).parents[2] / "docs" / "dataset_report.png"
SIDE, HEIGHT = 1000, 1500  # pixels of each half
SHEETS = 2215  # pixels from the top of the page to the contact sheets


def add_details(root: Path) -> None:
    """Add parts of the photographs, of several shapes."""
    rng = np.random.default_rng(3)
    for kind, photograph in zip(("temple", "flower"), photographs(), strict=True):
        for i in range(9):
            width, height = ((420, 260), (260, 420), (330, 400))[i % 3]
            left = int(rng.integers(0, 640 - width + 1))
            top = int(rng.integers(0, 427 - height + 1))
            part = photograph.crop((left, top, left + width, top + height))
            add(root, f"details/{kind} {i:02}.jpg", part, f"a photograph of part of a {kind}")


def main() -> None:
    """Photograph the top of a page in light colours, and its contact sheets in dark ones."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that the page says data/raw/garden
        root = make_lifelike(Path("data/raw/garden"), pictures=30)
        add_details(root)
        made = report(root, Path("out"), SIZES, max_unclean_fraction=0.5, trigger_word="photograph")
        page, profile = made.artifacts.page.resolve(), Path(folder)
        light = look(page, profile, (SIDE, HEIGHT), LIGHT)
        dark = look(page, profile, (SIDE, SHEETS + HEIGHT), DARK)
        sheet = Image.new("RGB", (2 * SIDE, HEIGHT))
        sheet.paste(light, (0, 0))
        sheet.paste(dark.crop((0, SHEETS, SIDE, SHEETS + HEIGHT)), (SIDE, 0))
        small = sheet.resize((1280, 960), Image.Resampling.LANCZOS)
        few = small.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
        few.save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
