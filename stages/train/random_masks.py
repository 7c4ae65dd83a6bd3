"""Random masks to learn filling from: boxes and strokes (free-form masks, Yu et al. 2019, 3.3)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from stages.randomness import generator

MAX_BOXES = 3
BOX_SIDES = (0.2, 0.7)  # of the picture's, the least and the largest
MAX_STROKES = 4
STROKE_POINTS = (3, 7)  # corners of a stroke, the fewest and one more than the most
STROKE_WIDTHS = (0.06, 0.2)  # of the shorter side


def random_mask(height: int, width: int, *purpose: str | int) -> Tensor:
    """Draw the mask (1, H, W) of 0 and 1 that belongs to `purpose`; 1 is filled.

    Something is always filled and something always kept.
    """
    random = generator(*purpose, "mask")
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    if random.random() < 0.5:
        for _ in range(random.integers(1, MAX_BOXES + 1)):
            _box(draw, width, height, random)
    else:
        for _ in range(random.integers(1, MAX_STROKES + 1)):
            _stroke(draw, width, height, random)
    mask = np.array(image, np.float32)
    if mask.all():
        mask[: height // 2] = 0
    return torch.from_numpy(mask)[None]


def _box(draw: ImageDraw.ImageDraw, width: int, height: int, random: np.random.Generator) -> None:
    sides = [max(1, round(side * random.uniform(*BOX_SIDES))) for side in (width, height)]
    left, top = (
        int(random.integers(0, whole - side + 1))
        for whole, side in zip((width, height), sides, strict=True)
    )
    draw.rectangle((left, top, left + sides[0] - 1, top + sides[1] - 1), fill=1)


def _stroke(
    draw: ImageDraw.ImageDraw, width: int, height: int, random: np.random.Generator
) -> None:
    radius = max(1.0, min(width, height) * random.uniform(*STROKE_WIDTHS) / 2)
    count = int(random.integers(*STROKE_POINTS))
    points = [(random.uniform(0, width), random.uniform(0, height)) for _ in range(count)]
    draw.line(points, fill=1, width=round(2 * radius))
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
