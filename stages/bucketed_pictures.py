"""Open pictures for an encoder; other processes do it, so this imports neither torch nor lance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.artifacts import read_table
from stages.known_pictures import cut_to_bucket
from stages.picture_rows import WHITE_FROM, Bucketed


def to_encode(buckets: Path, conditions: Path, folder: Path) -> list[Bucketed]:
    """List the dataset's pictures and those made for a ControlNet, which lie in `folder`."""
    made = read_table(conditions, "buckets").to_pylist()
    rows = read_table(buckets, "buckets").to_pylist()
    return [*rows, *({**row, "root": folder.as_posix()} for row in made)]


@dataclass(frozen=True)
class Pictures:
    """The pictures of a dataset, cut to their buckets.

    Attributes:
        root: of the dataset, data.train_path.
        background: see data.background.
        max_pixels: see data.max_pixels.
    """

    root: Path
    background: str
    max_pixels: int

    def __call__(self, picture: Bucketed) -> npt.NDArray[np.uint8]:
        """Return pixels (H, W, 3), with its mask (H, W, 4) where the picture is to be masked."""
        cut = self.cut(picture)
        if picture["role"] != "masked":
            return cut
        return np.concatenate([cut, Masks(self)(picture["mask"])], axis=2)

    def cut(self, picture: Bucketed) -> npt.NDArray[np.uint8]:
        """Cut a picture that is still what ingest read to its bucket, (H, W, 3)."""
        root = Path(picture.get("root", self.root))
        return cut_to_bucket(root, picture, self.background, self.max_pixels)


@dataclass(frozen=True)
class Masks:
    """The masks of a dataset, cut as their targets are."""

    pictures: Pictures

    def __call__(self, mask: Bucketed) -> npt.NDArray[np.uint8]:
        """Open and cut a mask; return (H, W, 1), 1 where it is white and the picture changes.

        Resizing makes greys between black and white, so that the border lies where it lay.
        """
        grey = np.asarray(Image.fromarray(self.pictures.cut(mask)).convert("L"))
        return (grey >= WHITE_FROM)[:, :, None].astype(np.uint8)
