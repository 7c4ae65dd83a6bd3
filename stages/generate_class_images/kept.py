"""The pictures that are kept beside the row store, in a folder for each way of making them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.artifacts import sha256_text, write_json
from stages.rows.location import local_root

PARTS = "made_by.json"  # what the folder's name is the hash of


def folder_of(root: str, parts: Mapping[str, Any]) -> Path:
    """Name the folder of the pictures that are made so; its pictures depend on nothing else."""
    name = sha256_text(json.dumps(parts, sort_keys=True))[:32]
    return local_root(root) / "class_images" / name


def picture_name(place: int) -> str:
    """Name the file of a picture."""
    return f"{place:06}.png"


def prepare(folder: Path, parts: Mapping[str, Any]) -> None:
    """Make the folder, and say in it what its pictures are made of."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PARTS).is_file():
        write_json(folder / PARTS, dict(parts))


def is_whole(path: Path) -> bool:
    """Tell whether a picture is there and undamaged (PNG has checksums)."""
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError):
        return False
    return True


def keep(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture (H, W, 3) whole or not at all, whoever else writes the same one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            Image.fromarray(picture).save(file, "PNG")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
