"""Small copies of the pictures that the page shows, each inside the page once."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stages.dataset.files import read_bytes
from stages.pixels import UnreadableImageError, open_rgb

PIXELS = 65_000  # of a thumbnail, at most
LONGEST_SIDE = 480  # pixels
LARGEST = 12_000  # bytes of a thumbnail, at most but for the coarsest
QUALITIES = ((1.0, 80), (1.0, 55), (0.75, 40), (0.5, 30))  # scale and WebP quality, until small
SHARP = 160  # pixels: smaller pictures are shown with their pixels as squares
THREADS = 4  # each holds a whole picture


@dataclass(frozen=True)
class Photo:
    """A picture on the page."""

    name: str  # of the element that holds it, unique on the page
    width: int  # pixels of the whole picture, upright
    height: int
    uri: str  # "data:image/webp;base64,..."

    @property
    def is_tiny(self) -> bool:
        """Whether it is enlarged so much that its pixels should stay squares."""
        return max(self.width, self.height) < SHARP


def photograph(
    root: Path, paths: Iterable[str], background: str, max_pixels: int
) -> dict[str, Photo]:
    """Make the small copies, by path, in the order given.

    Args:
        root: The dataset.
        paths: Of IMAGES; one that comes again is taken once.
        background: Colour under what is transparent.
        max_pixels: As at ingest.

    Raises:
        OSError: A picture is not there any more.
        ValueError: A picture cannot be opened any more.
    """

    def take(path: str) -> tuple[int, int, str]:
        try:
            image = open_rgb(read_bytes(root, path), background, max_pixels).image
        except UnreadableImageError as error:
            raise ValueError(
                f"{path} was a picture when it was listed, but now {error}: run `dvc repro`"
            ) from None
        return *image.size, shrink(image)

    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        taken = list(threads.map(take, distinct))
    return {
        path: Photo(f"p{number}", *photo)
        for number, (path, photo) in enumerate(zip(distinct, taken, strict=True))
    }


def shrink(image: Image.Image) -> str:
    """Return a small copy of an RGB picture as a data URI of limited length."""
    factor = min(1, (PIXELS / (image.width * image.height)) ** 0.5, LONGEST_SIDE / max(image.size))
    data = b""
    for scale, quality in QUALITIES:
        size = [max(1, round(side * factor * scale)) for side in image.size]
        buffer = io.BytesIO()
        small = image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3)
        small.save(buffer, format="WEBP", quality=quality, method=4)
        data = buffer.getvalue()
        if len(data) <= LARGEST:
            break
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def check_sizes(photos: Mapping[str, Photo], sizes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse pictures that no longer have the size that the tables say: crops would be wrong.

    Raises:
        ValueError: Names the first.
    """
    for path, photo in photos.items():
        expected = sizes.get(path, (photo.width, photo.height))
        if (photo.width, photo.height) != expected:
            raise ValueError(
                f"{path} is {photo.width}x{photo.height} pixels, but data/images.parquet says "
                f"{expected[0]}x{expected[1]}: run `dvc repro`"
            )
