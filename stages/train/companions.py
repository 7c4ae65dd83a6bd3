"""What goes with a target's row: references, mask and condition of the same cut and mirroring."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from stages.params.roles import KEYS
from stages.tables import PLACE, latent_name
from stages.train.sources import Source

ROWS = {"reference": ("reference",), "mask": ("mask", "masked"), "condition": ("condition",)}
WHITE = 255  # of stored pixels


@dataclass(frozen=True)
class Companions:
    """Of each row of a target, the names of the rows that go with it.

    Attributes:
        names: by role; of each row those of its pictures, in their order.
        shapes: of each row, the buckets of its references, such as "+64x32+32x32"; rows that
            differ in it cannot be in one batch.
    """

    names: Mapping[str, Sequence[Sequence[str]]]
    shapes: Sequence[str]

    def take(
        self, latent_rows: Source, rows: Sequence[int], visits: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Return the fields of a Batch that these rows of one shape give; `visits` as `Source`."""
        found = {
            role: [
                take_picture(latent_rows, names, visits)
                for names in zip(*(of[row] for row in rows), strict=True)
            ]
            for role, of in self.names.items()
        }
        references = tuple(found.pop("reference", ()))
        return {"references": references, **{role: one for role, (one,) in found.items()}}


NO_COMPANIONS = Companions({}, ())


def take_picture(latent_rows: Source, names: Sequence[str], visits: Sequence[int] | None) -> Tensor:
    """Return latents (the posterior's mean), a mask in {0, 1} or pixels in [0, 1], (B, C, H, W)."""
    found = latent_rows.take(names, visits)
    if "pixels" in found:
        return torch.from_numpy(found["pixels"] / np.float32(WHITE))
    return torch.from_numpy(found["mask" if "mask" in found else "mean"])


def companions_of(
    path: Path, latents: pa.Table, targets: pa.Table, roles: Collection[str]
) -> Companions:
    """Find what goes with the rows `targets`, by resolution and variant.

    Args:
        path: Of the manifest.
        latents: The manifest.
        targets: Those rows of it that are to have companions.
        roles: As `refuse_unread` takes them.

    Raises:
        ValueError: A target lacks a picture.
    """
    places = [_target(row) for row in _rows(targets)] if roles else []
    names: dict[str, list[tuple[str, ...]]] = {}
    shapes = [""] * targets.num_rows
    for role in rows_of(roles):
        of = _by_target(latents.filter(pc.equal(latents["role"], role)))
        if absent := [place for place in places if place not in of]:
            raise ValueError(
                f"{path} has no row of the role {role!r} for {len(absent)} rows of targets, first "
                f"of sample {absent[0][0]!r}: run `dvc repro`, which makes it anew"
            )
        names[role] = [tuple(name for name, _ in of[place]) for place in places]
        if role == "reference":
            shapes = ["".join(f"+{bucket}" for _, bucket in of[place]) for place in places]
    return Companions(names, shapes)


def refuse_unread(path: Path, latents: pa.Table, roles: Collection[str]) -> None:
    """Hold the roles of a manifest to those that the training reads.

    Raises:
        ValueError: There are others, or one is not there at all.
    """
    found = set(latents["role"].unique().to_pylist())
    read = {*rows_of(roles)}
    known = " and ".join(repr(role) for role in sorted(roles)) or "targets alone"
    if unread := sorted(found & KEYS.keys() - read):
        raise ValueError(
            f"{path} has rows of the role {unread[0]!r}, but this training reads {known}: set "
            f"{KEYS[unread[0]]} to {'[]' if unread[0] == 'reference' else 'null'}"
        )
    if absent := sorted({*roles} - found):
        raise ValueError(
            f"{path} has no row of the role {absent[0]!r}, which this training reads: give "
            f"{KEYS[absent[0]]}, and run `dvc repro`"
        )


def rows_of(roles: Collection[str]) -> list[str]:
    """Return the roles of the rows that the roles of pictures give."""
    return sorted(row for role in roles for row in ROWS[role])


def _by_target(rows: pa.Table) -> dict[tuple[str, int, int], list[tuple[str, str]]]:
    """Return name and bucket of the rows that go with each target's row, in their order."""
    found: dict[tuple[str, int, int], list[tuple[str, str]]] = {}
    for row in _rows(rows):  # sorted by index before resolution and variant
        found.setdefault(_target(row), []).append((latent_name(row), row["bucket"]))
    return found


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.select([*(name for name, _ in PLACE), "bucket"]).to_pylist()


def _target(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["sample_id"], row["resolution"], row["variant"]
