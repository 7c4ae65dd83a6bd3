"""Ways of writing that no scan has: leaning, thick, white on black."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from stages.make_digits.digits import TILE, Pool, Tile

PLAIN = "plain"
LEAN = 0.35  # sideways for each pixel of height
NARROW = 0.8  # of the width, so that what leans stays inside its tile


def restyle(pool: Pool, style: str) -> Pool:
    """Write every scan of a pool in one of STYLES."""
    return [(digit, STYLES[style](tile)) for digit, tile in pool]


def leaning(tile: Tile, lean: float) -> Tile:
    """Narrow a tile around its middle and let it lean, to the right where `lean` is positive."""
    middle, a = TILE / 2, 1 / NARROW
    back = (a, a * lean, middle - a * middle * (1 + lean), 0, 1, 0)  # from the result to the tile
    image = Image.fromarray(tile).transform(
        (TILE, TILE), Image.Transform.AFFINE, back, Image.Resampling.BICUBIC, fillcolor=255
    )
    return np.asarray(image, np.uint8)


def thick(tile: Tile) -> Tile:
    """Make strokes a pixel thicker on each side."""
    return np.asarray(Image.fromarray(tile).filter(ImageFilter.MinFilter(3)), np.uint8)


def inverted(tile: Tile) -> Tile:
    """White on black, leaning to the right."""
    return np.asarray(255 - leaning(tile, LEAN), np.uint8)


def hand(tile: Tile) -> Tile:
    """Thick, leaning to the left."""
    return leaning(thick(tile), -1.3 * LEAN)


STYLES: dict[str, Callable[[Tile], Tile]] = {
    PLAIN: lambda tile: tile,
    "inverted": inverted,
    "hand": hand,
}
