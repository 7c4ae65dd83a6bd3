"""Open pictures of a dataset that are still what ingest read; this imports no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages import pixels
from stages.dataset.files import read_bytes
from stages.picture_rows import Bucketed


def cut_to_bucket(
    root: Path, picture: Bucketed, background: str, max_pixels: int
) -> npt.NDArray[np.uint8]:
    """Open a picture of BUCKETS below `root` and cut it to its bucket, (H, W, 3).

    Raises:
        ValueError: The picture has changed since ingest read it, or is gone.
    """
    reason = ""
    try:
        image = pixels.open_rgb(read_bytes(root, picture["path"]), background, max_pixels).image
        content = pixels.content_hash(image)
    except (pixels.UnreadableImageError, OSError) as error:
        content, reason = "", f" ({error})"
    if content != picture["content"]:
        raise ValueError(
            f"{root / picture['path']} is no longer the picture that ingest read{reason}: run "
            "`dvc repro`, which reads it again"
        )
    return pixels.crop_to_bucket(image, picture)
