"""What is predicted of an experiment, as lines and as numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stages.needs import Needs
from stages.preflight.disk import Disk
from stages.preflight.encoding import Rows
from stages.preflight.memory import rooms_of, shares
from stages.preflight.time import Duration, Length
from stages.store.report import size


@dataclass(frozen=True)
class Prediction:
    """All that is known before encoding."""

    needs: Needs
    processes: int
    disks: Sequence[Disk]
    rows: Rows | None = None  # None: the data is not prepared
    length: Length | None = None  # the same
    duration: Duration | None = None  # None: the base is not here, or does not fit

    def lines(self) -> Iterator[str]:
        """Yield what a person is told."""
        needs = self.needs
        num, learn = needs.num_parameters, needs.num_trainable
        yield f"{num / 1e6:.2f} million parameters, of which {learn / 1e6:.2f} million learn"
        for room in rooms_of(needs, self.processes):
            yield f"{room.name}: {size(room.needed)} of {size(room.total)}, {size(room.free)} free"
        yield f"  a process has {shares(needs.memory, needs.machine)}"
        if self.rows is not None:
            rows, seconds = self.rows, self.encoding
            yield (
                f"to encode: {len(rows.pictures)} pictures and {rows.num_texts} texts, "
                f"{size(rows.num_bytes(needs.text_row))}"
                + ("" if seconds is None else f", in {clock(seconds)}")
            )
        for disk in self.disks:
            parts = ", ".join(f"{item.name} {size(item.num_bytes)}" for item in disk.items)
            yield f"disk: {size(disk.needed)} of {size(disk.free)} free ({parts})"
        if self.length is not None and self.duration is not None:
            yield (
                f"time to train: {clock(self.duration.total)} ({self.length.steps} steps of "
                f"{self.duration.step:.3g} s, {self.length.validations} validations of "
                f"{self.duration.validation:.3g} s)"
            )

    @property
    def encoding(self) -> float | None:
        """Seconds; None where that is not known."""
        if self.rows is None or (taken := self.needs.encoding) is None:
            return None
        return self.rows.seconds(taken)

    def numbers(self) -> dict[str, Any]:
        """Return what is kept, to be set beside what is measured."""
        needs, machine = self.needs, self.needs.machine
        memory = dataclasses.asdict(needs.memory) | {"total": needs.memory.total}
        found: dict[str, Any] = {
            "device": machine.device,
            "peak_bytes": needs.memory.total + (machine.process if machine.device == "cpu" else 0),
            "memory_bytes": memory,
            "process_bytes": machine.process,
            "checkpoint_bytes": sum(needs.checkpoint.values()),
            "weights_bytes": needs.outcome,
            "disk_bytes": sum(disk.needed for disk in self.disks),
        }
        if self.rows is not None:
            found |= {"rows": len(self.rows.pictures) + self.rows.num_texts}
            found |= {"row_bytes": self.rows.num_bytes(self.needs.text_row)}
        if (seconds := self.encoding) is not None:
            found |= {"encoding_seconds": seconds}
        if self.length is not None and self.duration is not None:
            found |= {"steps": self.length.steps, "step_seconds": self.duration.step}
            found |= {"training_seconds": self.duration.total}
        return found


def clock(seconds: float) -> str:
    """Write a duration for a person."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
