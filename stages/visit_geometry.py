"""What of a picture's geometry each visit draws anew, where pictures are encoded while training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

Size: TypeAlias = tuple[int, int]  # width, height in pixels
Corner: TypeAlias = tuple[int, int]  # left, top in pixels of the resized picture

ALIGNED = ("mask", "condition")  # roles that lie over the target pixel by pixel
KEY = "drawn"  # of a table's metadata


@dataclass(frozen=True)
class Drawn:
    """What visits draw; a table that names it has one row a picture, for the first look at it."""

    crop: bool  # the part that is kept (data.crop: random)
    flip: bool  # whether it is mirrored (data.flip)

    def to_metadata(self) -> dict[str, str]:
        """Return it as text, for a table."""
        return {KEY: json.dumps(asdict(self), sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Drawn | None:
        """Return what `to_metadata` wrote; None of a table whose rows are encoded once."""
        return cls(**json.loads(metadata[KEY])) if KEY in metadata else None

    def at(
        self, picture: Mapping[str, Any], target: Mapping[str, Any], draws: Sequence[float]
    ) -> dict[str, Any]:
        """Give a row of BUCKETS the geometry of a visit.

        Args:
            picture: The target, or what belongs to it; of the role "masked" with its "mask".
            target: The target's row.
            draws: How far across, how far down and whether mirrored, each in [0, 1).
        """
        across, down, mirrored = draws
        changed = dict(picture)
        if self.flip:
            changed["flipped"] = mirrored < 0.5
        if self.crop and lies_over(picture["role"], original(picture), original(target)):
            resized = picture["resize_width"], picture["resize_height"]
            bucket = picture["width"], picture["height"]
            changed["crop_left"], changed["crop_top"] = corner(across, down, resized, bucket)
        if "mask" in picture:
            changed["mask"] = self.at(picture["mask"], target, draws)
        return changed


def corner(across: float, down: float, resized: Size, bucket: Size) -> Corner:
    """Return the corner of a cut of a resized picture, each equally often for draws in [0, 1)."""
    left = int(across * (resized[0] - bucket[0] + 1))
    return left, int(down * (resized[1] - bucket[1] + 1))


def lies_over(role: str, size: Size, target: Size) -> bool:
    """Whether a picture of this role and size is resized and cut as its target is."""
    return role in ALIGNED or size == target


def original(picture: Mapping[str, Any]) -> Size:
    """Return the size that a row's picture has before resizing."""
    return picture["original_width"], picture["original_height"]
