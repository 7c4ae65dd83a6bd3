"""Read a folder of captioned pictures: what can be used, and what became of every file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts import write_table
from stages.dataset_folder import Entry, Listing, list_dataset
from stages.params.read import key
from stages.pixels import UnreadableImageError, content_hash, open_rgb
from stages.tables import FATE_OF_SPLIT, to_table

SAMPLE_ID_LENGTH = 20  # hex digits of the content
NAMED = 10  # files that a message names


@dataclass(frozen=True)
class Params:
    """Where the dataset is and how much of it may be broken."""

    train_path: str = key("data.train_path")
    caption_extension: str = key("data.caption_extension")
    validation_fraction: float = key("data.validation_fraction")
    max_bad_fraction: float = key("data.max_bad_fraction")


@dataclass(frozen=True)
class Artifacts:
    """The pictures that can be used, and the fate of every file."""

    images: Path = Path("data/images.parquet")
    ledger: Path = Path("data/ledger/ingest.parquet")


@dataclass(frozen=True)
class Picture:
    """An entry after its file was read: the content, or why there is none."""

    entry: Entry
    content: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Decode every picture once and write the table of those that can be used and the ledger."""
    root = Path(params.train_path)
    listing = list_dataset(root, params.caption_extension)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoding and hashing release the GIL
        pictures = list(threads.map(lambda entry: look_at(root, entry), listing.entries))
    bad = [picture for picture in pictures if picture.problem]
    refuse_too_many(root, bad, len(pictures), params.max_bad_fraction)
    rows = samples([p for p in pictures if not p.problem], params.validation_fraction)
    write_table(artifacts.images, to_table(rows, "images"), "images")
    write_table(artifacts.ledger, to_table(ledger(rows, bad, listing), "ledger"), "ledger")
    report(rows, bad, listing, artifacts.ledger)


def look_at(root: Path, entry: Entry) -> Picture:
    """Open the picture of `entry`; what is wrong with it becomes its problem, not an error."""
    if entry.problem:
        return Picture(entry, problem=entry.problem)
    try:
        image = open_rgb(root / entry.path)
    except UnreadableImageError as error:
        return Picture(entry, problem=str(error))
    except OSError as error:
        return Picture(entry, problem=f"cannot be read: {error.strerror}")
    return Picture(entry, content_hash(image), image.width, image.height)


def refuse_too_many(root: Path, bad: Sequence[Picture], total: int, allowed: float) -> None:
    """Raise when more pictures than `allowed` (a fraction), or all of them, cannot be used."""
    if len(bad) <= allowed * total and len(bad) < total:
        return
    raise ValueError(
        f"{root}: {len(bad)} of {total} pictures cannot be used, more than data.max_bad_fraction = "
        f"{allowed:g} allows: {named(bad)}; mend or remove them, or raise data.max_bad_fraction"
    )


def named(bad: Sequence[Picture]) -> str:
    """Return the first names with their problems."""
    shown = ", ".join(f"{p.entry.path} ({p.problem})" for p in bad[:NAMED])
    return shown + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")


def samples(pictures: Sequence[Picture], validation_fraction: float) -> list[dict[str, Any]]:
    """Return the rows of IMAGES, sorted by sample id.

    `pictures` come sorted by path: further copies of one get -1, -2, ... in that order.
    """
    held_out = validation_contents({p.content for p in pictures}, validation_fraction)
    copies: Counter[str] = Counter()
    rows = []
    for picture in pictures:
        copy = copies[picture.content]
        copies[picture.content] += 1
        row = {
            "sample_id": picture.content[:SAMPLE_ID_LENGTH] + (f"-{copy}" if copy else ""),
            "content": picture.content,
            "path": picture.entry.path,
            "width": picture.width,
            "height": picture.height,
            "caption": picture.entry.caption,
            "split": "validation" if picture.content in held_out else "train",
            "role": "target",
        }
        rows.append(row)
    return sorted(rows, key=lambda row: str(row["sample_id"]))


def validation_contents(contents: set[str], fraction: float) -> set[str]:
    """Choose what is never trained on: by content, so that copies of a picture stay together.

    A picture's place depends on its own content alone, except that one picture at least is
    chosen where there is a choice.
    """
    if not fraction or len(contents) < 2:
        return set()
    held_out = {c for c in contents if int(c[:16], 16) < fraction * 16**16} or {min(contents)}
    if held_out == contents:
        raise ValueError(
            f"data.validation_fraction: {fraction:g} leaves none of {len(contents)} different "
            f"pictures to train on: give a smaller one"
        )
    return held_out


def ledger(
    rows: Sequence[Mapping[str, Any]], bad: Sequence[Picture], listing: Listing
) -> list[dict[str, Any]]:
    """Return one row for each file of the dataset, sorted by path."""
    fates = [(r["path"], r["sample_id"], FATE_OF_SPLIT[r["split"]], "") for r in rows]
    fates += [(p.entry.path, None, "quarantined", p.problem) for p in bad]
    fates += [(path, None, "excluded", reason) for path, reason in listing.aside.items()]
    columns = ("path", "sample_id", "fate", "reason")
    return [{"stage": "ingest", **dict(zip(columns, fate, strict=True))} for fate in sorted(fates)]


def report(
    rows: Sequence[Mapping[str, Any]], bad: Sequence[Picture], listing: Listing, where: Path
) -> None:
    """Print the counts, and the names of what was quarantined."""
    held_out = sum(row["split"] == "validation" for row in rows)
    print(  # noqa: T201
        f"{len(rows) - held_out} pictures to train on, {held_out} to validate, "
        f"{len(bad)} quarantined, {len(listing.aside)} files left aside: see {where}"
    )
    if bad:
        print(f"quarantined: {named(bad)}")  # noqa: T201
