"""Which rows the pictures of BUCKETS give, and what of a picture each row is the function of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from stages import pixels
from stages.tables import place

# A row of BUCKETS, with "root" where it is not in the dataset; of the role "masked" with "mask".
Bucketed: TypeAlias = Mapping[str, Any]

GEOMETRY = ("resize_width", "resize_height", "crop_left", "crop_top", "width", "height", "flipped")
WHITE_FROM = 128  # grey value (0 to 255) of a mask from which on a pixel changes
FOLLOWS_PIXELS = "sdxl"  # the family whose ControlNets look at pixels instead of latents
MASK = f"white from {WHITE_FROM}"
FORMS = {"masks": MASK, "pixels": "8 bit"}  # of rows that no encoder makes; part of their keys


def rows_of(pictures: Iterable[Bucketed]) -> list[Bucketed]:
    """List the pictures and, of each target with a mask, what the mask leaves; sorted by place."""
    rows = list(pictures)
    masks = {_target(row): row for row in rows if row["role"] == "mask"}
    masked = [
        {**row, "role": "masked", "mask": mask}
        for row in rows
        if row["role"] == "target" and (mask := masks.get(_target(row))) is not None
    ]
    return sorted([*rows, *masked], key=place)


def kind_of(picture: Bucketed, family: str) -> str:
    """Return the kind of table that a picture's row is in: latents, masks or pixels."""
    if picture["role"] == "condition" and family == FOLLOWS_PIXELS:
        return "pixels"
    return "masks" if picture["role"] == "mask" else "latents"


def picture_parts(picture: Bucketed, kind: str) -> dict[str, Any]:
    """Return the parts of a row's key that its picture gives."""
    parts: dict[str, Any] = {"content": picture["content"], "pixels": pixels.CONVENTION}
    parts["geometry"] = [picture[name] for name in GEOMETRY]
    if picture["role"] == "masked":
        parts |= {"content": [picture["content"], picture["mask"]["content"]], "mask": MASK}
    return parts | ({"form": FORMS[kind]} if kind in FORMS else {})


def _target(row: Bucketed) -> tuple[str, int, int]:
    return row["sample_id"], row["resolution"], row["variant"]
