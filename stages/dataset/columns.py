"""The columns of a metadata table that are read; those that nothing reads are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.dataset.form import Form

IMAGES = ("image", "file_name")  # of which a table has one
CAPTIONS = ("caption", "captions", "text", "prompt")  # of which a table has one at most
FOCAL_POINT = "focal_point"
LIKELY = {  # column -> what was probably meant
    "mask": "data.mask to 'mask'",
    "condition": "data.condition to 'condition'",
    "reference": "data.references to ['reference']",
    "references": "data.references to ['references']",
}


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read."""

    image: str
    captions: tuple[str, ...]
    roles: Mapping[str, tuple[str, ...]]

    @property
    def pictures(self) -> tuple[str, ...]:
        """Name those that hold pictures or their paths, each once."""
        roles = (name for names in self.roles.values() for name in names)
        return tuple(dict.fromkeys((self.image, *roles)))

    @property
    def all(self) -> tuple[str, ...]:
        """Name all that are read, each once."""
        return tuple(dict.fromkeys((*self.pictures, *self.captions, FOCAL_POINT)))


def columns_of(found: Mapping[str, str], form: Form, where: str) -> Columns:
    """Choose the columns that are read.

    Args:
        found: Each column of the table with the first row that has it, for messages.
        form: How the dataset is to be read.
        where: The table, for messages.

    Raises:
        ValueError: A column is surplus, missing, or one of two with the same meaning.
    """
    held = [name for name in found if name not in form.ignore_columns]
    images = [name for name in IMAGES if name in held]
    captions = [name for name in form.caption_columns or CAPTIONS if name in held]
    if len(images) > 1 or (len(captions) > 1 and not form.caption_columns):
        both = images if len(images) > 1 else captions
        choice = "" if both is images else f"set data.captions.columns to {both}, or "
        raise ValueError(
            f"{where} has the columns {both}, which mean the same: {choice}list the others in "
            f"data.ignore_columns"
        )
    _refuse_missing(found, form, where)
    columns = Columns(images[0] if images else IMAGES[0], tuple(captions), form.roles)
    surplus = sorted(set(held) - {*columns.pictures, *columns.captions, FOCAL_POINT})
    if surplus:
        raise ValueError(
            f"{found[surplus[0]]} has the columns {surplus}, which nothing reads: "
            f"{_advice(surplus)} set data.ignore_columns to {[*form.ignore_columns, *surplus]}"
        )
    return columns


def _refuse_missing(found: Iterable[str], form: Form, where: str) -> None:
    keys = dict.fromkeys(form.caption_columns, "data.captions.columns")
    for role, names in form.roles.items():
        keys |= dict.fromkeys(names, "data.references" if role == "reference" else f"data.{role}")
    for name, key in keys.items():
        if name not in found:
            raise ValueError(
                f"{where} has no column {name!r}, which {key} names: its columns are "
                f"{sorted(found)}"
            )
        if name in form.ignore_columns:
            raise ValueError(f"{key} and data.ignore_columns both name {name!r}: keep one of them")


def _advice(surplus: Sequence[str]) -> str:
    keys = [LIKELY[name] for name in surplus if name in LIKELY]
    captions = [name for name in surplus if name in CAPTIONS]
    if captions:
        keys.append(f"data.captions.columns to {captions}")
    return f"set {' and '.join(keys)}, or" if keys else "remove them, or"
