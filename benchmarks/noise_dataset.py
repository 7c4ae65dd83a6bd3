"""A dataset of noise as the encoding stages leave it: rows in a store, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.artifacts import write_table
from stages.base_record import Part, read_record, write_record
from stages.rows.keys import row_key, table_name
from stages.rows.layout import Column, Shapes, columns_of
from stages.rows.table import RowTable
from stages.tables import SIZES, to_table
from stages.train.samples import Manifests

PER_COMMIT = 256  # rows


@dataclass(frozen=True)
class Noise:
    """What the rows of a family hold; each picture has its own caption, and the first validates."""

    family: str
    num: int  # pictures
    resolution: int  # pixels along both sides
    latents: Shapes  # columns of a picture's row, each (C, H, W)
    text: Shapes  # columns of a caption's row
    condition: tuple[str, Shapes] | None = None  # kind of rows and columns of what is followed

    @property
    def pictures(self) -> dict[str, tuple[str, Shapes]]:
        """Give the kind of rows and the columns of each role."""
        roles = {"target": ("latents", self.latents)}
        return roles if self.condition is None else roles | {"condition": self.condition}


def write_noise(data: Path, store: Path, noise: Noise) -> Manifests:
    """Write rows into `store`, and tables and records of the encoders into `data`."""
    names = [f"{number:020x}" for number in range(noise.num)]
    keys = [row_key(picture=name) for name in names]
    tables = [*noise.pictures.values(), ("text", noise.text)]
    for kind, columns in dict((table_name(*each), each) for each in tables).values():
        fill(RowTable.open(str(store), table_name(kind, columns), columns), keys)
    rows = [
        {"sample_id": name, "key": key, "split": "train" if place else "validation"}
        | row_of(noise, role)
        for place, (name, key) in enumerate(zip(names, keys, strict=True))
        for role in noise.pictures
    ]
    captions = [{"sample_id": name, "variant": 0, "caption": name} for name in names]
    text = table_name("text", noise.text)
    prompts = [
        {"caption": caption, "key": key, "table": text}
        for caption, key in zip(["", *names], [keys[0], *keys], strict=True)
    ]
    made = Manifests(
        latents=data / "latents.parquet",
        prompts=data / "prompts.parquet",
        captions=data / "captions.parquet",
        vae=data / "base/vae.json",
        text_encoder=data / "base/text_encoder.json",
    )
    made.vae.parent.mkdir(parents=True, exist_ok=True)
    for path in (made.vae, made.text_encoder):
        write_record(path, {path.stem: Part("Encoder", data, path.stem)}, {})
    by = {"family": noise.family}
    vae, encoder = read_record(made.vae).digest, read_record(made.text_encoder).digest
    write_table(made.latents, to_table(rows, "latents"), "latents", by | {"encoder": vae})
    write_table(made.prompts, to_table(prompts, "prompts"), "prompts", by | {"encoder": encoder})
    write_table(made.captions, to_table(captions, "captions"), "captions")
    return made


def row_of(noise: Noise, role: str) -> dict[str, object]:
    """Give what all rows of a role in the table of latents have in common."""
    kind, columns = noise.pictures[role]
    channels, height, width = next(iter(columns_of(columns).values())).shape
    pixels = noise.resolution
    row = {"role": role, "index": 0, "resolution": pixels, "variant": 0, "repeats": 1}
    row |= {"table": table_name(kind, columns), "weight": 1.0, "prior": False}
    row |= {"bucket": f"{pixels}x{pixels}", "channels": channels}
    return row | dict.fromkeys(SIZES, pixels) | {"height": height, "width": width}


def fill(table: RowTable, keys: Sequence[str]) -> None:
    """Add a row of noise for each key."""
    random = np.random.default_rng(0)
    for start in range(0, len(keys), PER_COMMIT):
        part = keys[start : start + PER_COMMIT]
        table.add(part, {name: noise_of(random, len(part), c) for name, c in table.columns.items()})


def noise_of(random: np.random.Generator, num: int, column: Column) -> npt.NDArray[np.float32]:
    """Draw values for a column of `num` rows; what is stored as bytes is whole."""
    shape = (num, *column.shape)
    if column.dtype == "uint8":
        return random.integers(0, 256, shape).astype(np.float32)
    return random.standard_normal(shape, np.float32)
