"""Small datasets of both forms, and a way to read their tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.artifacts import read_table


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def eight_images(tmp_path: Path) -> Path:
    """A dataset with a metadata.json: eight different pictures."""
    folder = tmp_path / "eight"
    folder.mkdir()
    rows = []
    for i in range(8):
        picture(i).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "caption": f"picture {i}"})
    (folder / "metadata.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def paired_images(tmp_path: Path) -> Path:
    """A dataset with caption files: six pictures, three of them in a folder of their own."""
    folder = tmp_path / "paired"
    (folder / "sub").mkdir(parents=True)
    for i in range(6):
        path = folder / ("sub" if i % 2 else "") / f"{i // 2}.png"
        picture(i).save(path)
        path.with_suffix(".txt").write_text(f"picture {i}\n")
    return folder


@pytest.fixture
def rows_of() -> Callable[[Path, str], list[dict[str, Any]]]:
    return lambda path, schema: read_table(path, schema).to_pylist()
