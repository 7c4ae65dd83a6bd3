"""How much room an experiment will take, and where."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.base_record import read_record
from stages.needs import Needs
from stages.params.outputs import Export
from stages.params.training import Checkpoint
from stages.rows.location import local_root

FROZEN = ("vae", "text_encoder", "tokenizer")  # components that a whole model takes along
TRAINED, EXPORTED = Path("data/train"), Path("data/export")
FORMS = 3  # of adapters, where `export.lora_formats` names none
COPIES = 2  # of what DVC tracks: in its cache too


@dataclass(frozen=True)
class Item:
    """Something that is written."""

    name: str
    num_bytes: int
    path: Path


def items_of(
    needs: Needs,
    row_bytes: int | None,
    checkpoint: Checkpoint,
    export: Export,
    root: str,
    output_dir: Path,
    base: Path | None,
) -> list[Item]:
    """List what will be written.

    Args:
        needs: Of the training.
        row_bytes: Of the rows to encode; None where that is not known.
        checkpoint: How many are kept.
        export: What is exported.
        root: The row store's place.
        output_dir: Where the export is copied to.
        base: Folder of the base's records; None where there is none yet.
    """
    local = local_root(root)
    num = checkpoint.keep + 1 + checkpoint.keep_best  # the oldest goes when a new one is there
    kept = num * sum(needs.checkpoint.values())
    exported = exported_bytes(needs, export, base)
    items = [
        Item("checkpoints", kept, local),
        Item("weights", COPIES * needs.outcome, TRAINED),
        Item("export", COPIES * exported, EXPORTED),
        Item("copy of the export", exported, output_dir),
    ]
    if row_bytes is None or "://" in root:
        return items
    return [Item("rows", row_bytes, local), *items]


def exported_bytes(needs: Needs, export: Export, base: Path | None) -> int:
    """Return the size of the export: a whole model, or what was trained alone."""
    if needs.is_controlnet:
        return needs.outcome
    if needs.is_adapter and not export.merge:
        forms = FORMS if export.lora_formats is None else len(export.lora_formats)
        return forms * needs.outcome
    denoiser = needs.denoiser if needs.is_adapter else needs.outcome
    return denoiser + (0 if base is None else _frozen_bytes(base))


def _frozen_bytes(base: Path) -> int:
    folders = [
        folder for part in FROZEN for folder in read_record(base / f"{part}.json").folders.values()
    ]
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*.*"))


@dataclass(frozen=True)
class Disk:
    """What will be written on one disk."""

    items: Sequence[Item]
    free: int  # bytes

    @property
    def needed(self) -> int:
        """Bytes of all of it."""
        return sum(item.num_bytes for item in self.items)


def disks_of(items: Iterable[Item]) -> list[Disk]:
    """Group items by the disk that they will be on."""
    grouped: dict[int, list[Item]] = {}
    for item in items:
        grouped.setdefault(os.stat(_existing(item.path)).st_dev, []).append(item)
    return [Disk(of, shutil.disk_usage(_existing(of[0].path)).free) for of in grouped.values()]


def _existing(path: Path) -> Path:
    absolute = path.absolute()
    return next(folder for folder in [absolute, *absolute.parents] if folder.exists())
