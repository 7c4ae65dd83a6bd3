"""The samples that have a caption: each a target with its references, masks and conditions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from stages.artifacts import read_table
from stages.bucket.ladder import Size
from stages.tables import ROLES


@dataclass(frozen=True)
class Picture:
    """A row of IMAGES: the columns that geometry depends on, and those that go on with it."""

    sample_id: str
    role: str
    index: int
    content: str
    path: str
    width: int
    height: int
    split: str
    repeats: int
    weight: float
    prior: bool
    focal_x: float | None
    focal_y: float | None

    @property
    def size(self) -> Size:
        """Return width and height in pixels."""
        return self.width, self.height


@dataclass(frozen=True)
class Sample:
    """A target and what belongs to it."""

    target: Picture
    others: tuple[Picture, ...]  # sorted by role, as ROLES, and index


def read_samples(images: Path, captions: Path) -> list[Sample]:
    """Read the samples that have a caption, sorted by sample id.

    Raises:
        ValueError: A caption belongs to a sample that has no target.
    """
    wanted = set(read_table(captions, "captions")["sample_id"].to_pylist())
    table = read_table(images, "images").select([each.name for each in fields(Picture)])
    columns = [column.to_pylist() for column in table.columns]
    pictures = map(Picture, *columns)
    samples = group(each for each in pictures if each.sample_id in wanted)
    if len(samples) < len(wanted):
        raise ValueError(
            f"{captions} names {len(wanted) - len(samples)} samples that are not in {images}: "
            "run `dvc repro check_captions`"
        )
    return samples


def group(pictures: Iterable[Picture]) -> list[Sample]:
    """Return the samples of pictures in any order, sorted by sample id."""
    targets: dict[str, Picture] = {}
    others: defaultdict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        if picture.role == "target":
            targets[picture.sample_id] = picture
        else:
            others[picture.sample_id].append(picture)
    return [Sample(targets[each], _in_order(others.get(each, ()))) for each in sorted(targets)]


def _in_order(pictures: Iterable[Picture]) -> tuple[Picture, ...]:
    return tuple(sorted(pictures, key=lambda each: (ROLES.index(each.role), each.index)))
