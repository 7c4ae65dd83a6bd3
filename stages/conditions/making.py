"""What of a picture a ControlNet is shown: its edges, greys, blurred or coarse colours, depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageFilter

from stages.params.methods import Controlnet

CONVENTION = 1  # of all that is made here: another number makes every picture anew
GIVEN = "given"  # a conditioning_type whose pictures the dataset brings


@dataclass(frozen=True)
class Maker:
    """Makes the condition picture of a picture, of its size.

    Attributes:
        make: from an 8-bit RGB picture to one of greys or RGB.
        identity: all that the result depends on besides the picture.
    """

    make: Callable[[Image.Image], Image.Image]
    identity: Mapping[str, str | int | float]

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Make the condition picture."""
        return self.make(picture)


def canny(picture: Image.Image, low: float, high: float, sigma: float) -> Image.Image:
    """Draw edges in white on black, one pixel wide (Canny 1986).

    Args:
        picture: 8-bit RGB; its greys count.
        low: Slope by the 3x3 Sobel operator (at most 1442 for greys of 0 to 255) that continues
            an edge.
        high: Slope that begins one.
        sigma: Of the Gaussian that smooths before, pixels.
    """
    from skimage.feature import canny  # takes a second to import

    grey = np.asarray(picture.convert("L"), np.float64)
    edges = canny(grey, sigma=sigma, low_threshold=low, high_threshold=high)
    return Image.fromarray(edges.astype(np.uint8) * np.uint8(255))


def grey(picture: Image.Image) -> Image.Image:
    """Take the colours out (ITU-R 601 luma)."""
    return picture.convert("L")


def blur(picture: Image.Image, radius: float) -> Image.Image:
    """Blur by a Gaussian, whose standard deviation is `radius` pixels."""
    return picture.filter(ImageFilter.GaussianBlur(radius))


def tile(picture: Image.Image, factor: int) -> Image.Image:
    """Shrink both sides by `factor`, to the mean of each square, and enlarge them again."""
    small = (max(1, picture.width // factor), max(1, picture.height // factor))
    coarse = picture.resize(small, Image.Resampling.BOX)
    return coarse.resize(picture.size, Image.Resampling.BICUBIC)


def maker_of(asked: Controlnet) -> Maker:
    """Return what makes the pictures of a `conditioning_type` other than "given".

    Raises:
        FileNotFoundError, ValueError: The depth model is not there or is none.
    """
    kind, pillow = asked.conditioning_type, f"pillow {PIL.__version__}"
    if kind == "depth":
        from stages.conditions.depth import open_estimator  # the only one that needs torch

        estimator = open_estimator(asked.depth_model or "")
        return _maker(kind, estimator, {**estimator.identity, "library": pillow})
    if kind == "canny":
        settings: dict[str, Any] = {
            "low": asked.canny_low,
            "high": asked.canny_high,
            "sigma": asked.canny_sigma,
        }
        library = f"scikit-image {version('scikit-image')}, {pillow}"
        return _maker(kind, partial(canny, **settings), {**settings, "library": library})
    of_pillow: dict[str, tuple[Callable[..., Image.Image], dict[str, Any]]] = {
        "grey": (grey, {}),
        "blur": (blur, {"radius": asked.blur_radius}),
        "tile": (tile, {"factor": asked.tile_factor}),
    }
    if kind not in of_pillow:
        raise ValueError(
            f"training.controlnet.conditioning_type: no pictures are made for {kind!r}: use canny, "
            f"depth, {', '.join(of_pillow)}"
        )
    make, settings = of_pillow[kind]
    return _maker(kind, partial(make, **settings), {**settings, "library": pillow})


def _maker(
    kind: str, make: Callable[[Image.Image], Image.Image], identity: Mapping[str, Any]
) -> Maker:
    return Maker(make, {"type": kind, "convention": CONVENTION, **identity})
