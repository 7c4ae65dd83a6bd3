"""What a dataset is said to be, and what is found in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DatasetPart:
    """One of several datasets in the folder, see `stages.params.data.Dataset`."""

    path: str  # folder, shard or table, relative to the dataset
    repeats: int = 1
    weight: float = 1.0
    split: str = "auto"  # "auto" | "train" | "validation"


@dataclass(frozen=True)
class Form:
    """How a dataset is to be read, as section `data` says."""

    caption_extension: str = ".txt"  # of caption files, in any case
    caption_columns: Sequence[str] = ()  # of metadata; (): the usual one
    per_line: bool = False  # each line of a caption file is a caption
    references: Sequence[str] = ()  # columns, or folders beside the pictures
    mask: str | None = None  # column or folder
    condition: str | None = None  # column or folder
    ignore_columns: Sequence[str] = ()  # of metadata
    allow_outside: bool = False  # read what lies outside the dataset, too
    datasets: Sequence[DatasetPart] = ()  # (): the folder is one dataset

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """Give the columns or folders of each role that is asked for."""
        named = {
            "reference": tuple(self.references),
            "mask": (self.mask,) if self.mask is not None else (),
            "condition": (self.condition,) if self.condition is not None else (),
        }
        return {role: names for role, names in named.items() if names}


@dataclass(frozen=True)
class Entry:
    """A picture that the dataset names, with all that belongs to it."""

    path: str  # relative to the dataset, with "/"; see `files`
    captions: tuple[str, ...] = ()  # as written; () where there is none
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # role -> paths, in order
    dataset: str = ""  # its path in `Form.datasets`; "" where there is one dataset
    repeats: int = 1
    weight: float = 1.0
    split: str = "auto"  # "auto" | "train" | "validation"
    focal_point: tuple[float, float] | None = None  # fractions of width and height
    problem: str = ""  # why it cannot be used, as far as the listing tells
    caption_problem: str = ""  # why it has no caption although one is meant for it
    prior: bool = False  # whether the base made it, for DreamBooth's prior


@dataclass(frozen=True)
class Listing:
    """What a dataset holds; each file is in one of the two or belongs to an entry."""

    entries: Sequence[Entry]  # sorted by path
    aside: Mapping[str, str]  # path -> why the file is no entry's, sorted
