"""One sentence for what does not fit, with what would make it fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from stages.needs import Needs
from stages.preflight.disk import Disk
from stages.preflight.memory import Room, rooms_of
from stages.store.report import size

LESS_DISK = (
    "free some, lower training.checkpoint.keep, or point data.store or experiment.output_dir to "
    "another disk"
)


def refusals(needs: Needs, processes: int, disks: Sequence[Disk]) -> Iterator[str]:
    """Yield what cannot be: more memory than there is, more room than is free."""
    rooms = rooms_of(needs, processes)
    lean = needs if not needs.remedies else replace(needs, memory=needs.remedies[-1].memory)
    for room, at_last in zip(rooms, rooms_of(lean, processes), strict=True):
        if room.needed > room.total:
            yield (
                f"training needs {size(room.needed)} of {room.name}, but there are "
                f"{size(room.total)}: {remedy(needs, at_last)}"
            )
    for disk in disks:
        if disk.needed > disk.free:
            parts = ", ".join(f"{item.name} {size(item.num_bytes)}" for item in disk.items)
            places = sorted({str(item.path) for item in disk.items})
            yield (
                f"{size(disk.needed)} will be written to the disk of {', '.join(places)} "
                f"({parts}), but {size(disk.free)} are free: {LESS_DISK}"
            )


def warnings(rooms: Sequence[Room]) -> Iterator[str]:
    """Yield what fits into the machine but not into what others leave of it now."""
    for room in rooms:
        if room.free < room.needed <= room.total:
            yield (
                f"training needs {size(room.needed)} of {room.name}, of which others leave "
                f"{size(room.free)} now: end what is not needed before it begins"
            )


def remedy(needs: Needs, at_last: Room) -> str:
    """Say what to turn on, what each saves, and what is needed with all of it."""
    if not needs.remedies:
        return "take a smaller base or a larger machine"
    parts, before = [], needs.memory.total
    for each in needs.remedies:
        settings = " and ".join(f"{key}: {written(value)}" for key, value in each.settings.items())
        parts.append(f"{settings} (saves {size(before - each.memory.total)})")
        before = each.memory.total
    end = "" if at_last.needed <= at_last.total else ", which is still too much"
    return f"set {', then '.join(parts)}; it then needs {size(at_last.needed)}{end}"


def written(value: Any) -> str:
    """Write a value as YAML has it."""
    return value if isinstance(value, str) else json.dumps(value)
