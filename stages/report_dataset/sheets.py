"""Contact sheets: for each bucket some of its pictures, with what is cut off them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stages.report_dataset.inputs import Inputs, Row
from stages.tables import place

CELLS = 24  # targets a bucket, at most
PICTURES = 230  # of all sheets together, references and masks counted
MOST_CUT = 3  # one in so many is chosen for what is cut off it, the others evenly by name
OTHERS = 4  # references, masks and conditions beside a target, at most
CROPS = 6  # rectangles drawn in one picture, at most


class Box(NamedTuple):
    """What is kept of a picture, in pixels of the whole picture."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Shot:
    """A picture and its crops."""

    path: str
    label: str  # "target", "reference 1", ...
    width: int  # pixels of the whole picture
    height: int
    crops: Sequence[Box]  # distinct ones, in the order of variants

    @property
    def is_cut(self) -> bool:
        """Whether any crop leaves out a part."""
        return any(box != Box(0, 0, self.width, self.height) for box in self.crops)


@dataclass(frozen=True)
class Cell:
    """A training item as the sheet shows it."""

    target: Shot
    others: Sequence[Shot]
    num_left_out: int  # others that are not shown
    caption: str  # the first
    num_captions: int
    num_crops: int  # distinct ones
    is_flipped: bool  # whether mirrored rows are trained on, too
    is_validation: bool
    cropped: float  # part of the resized picture that the first crop leaves out
    enlarged: float  # factor of the resize; above 1 the picture is too small for the bucket
    repeats: int
    weight: float
    dataset: str


@dataclass(frozen=True)
class Sheet:
    """A bucket at one resolution, with the cells that are shown of it."""

    bucket: str
    resolution: int
    width: int  # of the bucket, pixels
    height: int
    total: int  # targets
    cells: Sequence[Cell]
    num_most_cut: int  # the first cells, chosen for it

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height

    @property
    def has_others(self) -> bool:
        """Whether references, masks or conditions stand beside the targets."""
        return any(cell.others for cell in self.cells)


def cropped_fraction(row: Row) -> float:
    """Return the part of a resized picture that is cut off, from a row of BUCKETS."""
    return 1 - row["width"] * row["height"] / (row["resize_width"] * row["resize_height"])


def enlargement(row: Row) -> float:
    """Return the factor by which a picture is resized, from a row of BUCKETS."""
    return min(
        row["resize_width"] / row["original_width"], row["resize_height"] / row["original_height"]
    )


def crop_box(row: Row) -> Box:
    """Return what a row of BUCKETS keeps, in pixels of the picture before resizing."""
    across = row["original_width"] / row["resize_width"]
    down = row["original_height"] / row["resize_height"]
    box = (
        row["crop_left"] * across,
        row["crop_top"] * down,
        row["width"] * across,
        row["height"] * down,
    )
    return Box(*(round(side, 2) for side in box))


def create_sheets(inputs: Inputs, pictures: int = PICTURES) -> list[Sheet]:
    """Choose what is shown of each bucket, the largest buckets' sheets first.

    Args:
        inputs: The tables.
        pictures: Of all sheets together, at most.
    """
    grouped: defaultdict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in inputs.first_crops:
        grouped[row["bucket"], row["resolution"]].append(row)
    belonging = _by_item(inputs.buckets)
    limit = _cells_a_sheet(grouped, belonging, pictures)
    keys = sorted(grouped, key=lambda key: (-len(grouped[key]), key[1], key[0]))
    sheets, left = [], pictures
    for key in keys:
        chosen, num_most_cut = choose(grouped[key], limit)
        items = [belonging[row["sample_id"], row["resolution"]] for row in chosen]
        left -= sum(map(_num_shots, items))
        shown = [_cell(rows, inputs) for rows in items] if left >= 0 else []
        width, height = grouped[key][0]["width"], grouped[key][0]["height"]
        sheets.append(Sheet(*key, width, height, len(grouped[key]), shown, num_most_cut))
    return sheets


def choose(rows: Sequence[Row], limit: int) -> tuple[list[Row], int]:
    """Choose rows of one bucket: those that lose most, then others evenly by name.

    Returns:
        The rows, and how many of the first are there for what they lose; all rows by name and 0
        where there are no more than `limit`.
    """
    by_name = sorted(rows, key=lambda row: (row["path"], row["sample_id"]))
    if len(by_name) <= limit:
        return by_name, 0
    by_loss = sorted(by_name, key=cropped_fraction, reverse=True)
    most = [row for row in by_loss[: limit // MOST_CUT] if cropped_fraction(row) > 0]
    names = {row["sample_id"] for row in most}
    rest = [row for row in by_name if row["sample_id"] not in names]
    wanted = limit - len(most)
    return most + [rest[i * len(rest) // wanted] for i in range(wanted)], len(most)


def _by_item(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    """Group the rows of BUCKETS by training item."""
    items: defaultdict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=place):
        items[row["sample_id"], row["resolution"]].append(row)
    return items


def _cells_a_sheet(
    grouped: Mapping[tuple[str, int], Sequence[Row]],
    belonging: Mapping[tuple[str, int], Sequence[Row]],
    pictures: int,
) -> int:
    """Return how many targets each sheet may show: as many as all together have room for, or 1."""
    most_first = [
        sorted(
            (_num_shots(belonging[row["sample_id"], row["resolution"]]) for row in rows),
            reverse=True,
        )
        for rows in grouped.values()
    ]
    for limit in range(CELLS, 1, -1):
        if sum(sum(shots[:limit]) for shots in most_first) <= pictures:
            return limit
    return 1


def _num_shots(rows: Sequence[Row]) -> int:
    return min(len({(row["role"], row["index"]) for row in rows}), 1 + OTHERS)


def _cell(rows: Sequence[Row], inputs: Inputs) -> Cell:
    shots = list(_shots(rows))
    first = rows[0]
    of_target = [row for row in rows if row["role"] == "target"]
    texts = inputs.texts[first["sample_id"]]
    return Cell(
        target=shots[0],
        others=shots[1 : 1 + OTHERS],
        num_left_out=len(shots[1 + OTHERS :]),
        caption=texts[0],
        num_captions=len(texts),
        num_crops=len({crop_box(row) for row in of_target}),
        is_flipped=any(row["flipped"] for row in of_target),
        is_validation=first["split"] == "validation",
        cropped=cropped_fraction(first),
        enlarged=enlargement(first),
        repeats=first["repeats"],
        weight=first["weight"],
        dataset=inputs.dataset_of[first["sample_id"]],
    )


def _shots(rows: Sequence[Row]) -> Iterator[Shot]:
    """Yield the pictures of one training item, the target first."""
    pictures: defaultdict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        pictures[row["role"], row["index"]].append(row)
    several = sum(role == "reference" for role, _ in pictures) > 1
    for (role, index), variants in pictures.items():
        first = variants[0]
        crops = list(dict.fromkeys(crop_box(row) for row in variants))[:CROPS]
        label = f"{role} {index + 1}" if role == "reference" and several else role
        size = (first["original_width"], first["original_height"])
        yield Shot(first["path"], label, *size, crops)
