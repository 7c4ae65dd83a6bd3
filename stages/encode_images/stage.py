"""Encode each bucketed picture once with the base's autoencoder and name its row in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelzoo.autoencoders import Autoencoder, load_autoencoder
from stages import launch
from stages.artifacts import extra_metadata, read_table, write_table
from stages.base_record import Record, read_record
from stages.bucketed_pictures import Pictures, to_encode
from stages.encode_images.copies import ByKind, copier
from stages.encoding.batch import Encoder, Inputs, choose_device, encoder_of
from stages.encoding.missing import Count, Wanted, Work
from stages.encoding.ray_actors import Probe
from stages.encoding.work import work_of
from stages.encoding.writing import Manifest
from stages.params.read import key
from stages.picture_encoding import BATCH_SIZE, COLUMNS, encoding
from stages.picture_rows import Bucketed, kind_of, picture_parts, rows_of
from stages.rows.generation import Generation, summary
from stages.rows.keys import Part, key_of, parts_text, table_name
from stages.rows.layout import Column
from stages.rows.location import store_root
from stages.rows.table import RowTable
from stages.tables import PLACE, SIZES, to_table
from stages.visit_geometry import Drawn

STAGE = "encode_images"
PROBE_CELLS = 8  # side of the probe picture in latent cells
CARRIED = (*(name for name, _ in PLACE), "split", "repeats", "weight", "prior", "bucket")


@dataclass(frozen=True)
class Params:
    """What the rows depend on, where they are kept, and who encodes them."""

    family: str = key("model.type")
    dtype: str = key("model.dtype")
    train_path: str = key("data.train_path")
    background: str = key("data.background")
    batch_size: int = key("hardware.encode_batch_size")
    threads: int = key("hardware.threads")
    max_pixels: int = key("data.max_pixels", tracked=False)
    store: str | None = key("data.store", tracked=False)
    workers: str = key("hardware.encode_workers", tracked=False)
    ray_address: str | None = key("hardware.ray_address", tracked=False)
    decode_workers: int = key("hardware.decode_workers", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """Geometry and the base's autoencoder in; the keys of the rows out."""

    buckets: Path = Path("data/buckets.parquet")
    vae: Path = Path("data/base/vae.json")
    latents: Path = Path("data/latents.parquet")
    conditions: Path = Path("data/conditions.parquet")  # pictures made for a ControlNet
    condition_pictures: Path = Path("data/conditions")


def run(params: Params, artifacts: Artifacts = Artifacts(), fill_only: bool = False) -> None:
    """Encode the pictures whose rows the store lacks, and write the keys of all rows."""
    launch.use_threads(params.threads)
    device = choose_device()
    base = read_record(artifacts.vae)
    autoencoder = open_autoencoder(base, params.dtype, device)
    drawn = Drawn.from_metadata(extra_metadata(read_table(artifacts.buckets, "buckets")))
    if drawn is not None:
        print(leave_to_training(drawn, autoencoder, base.digest, params, artifacts))  # noqa: T201
        return
    count = encode(autoencoder, base.digest, params, artifacts, fill_only, device)
    print(count)  # noqa: T201


def leave_to_training(
    drawn: Drawn, autoencoder: Autoencoder, digest: str, params: Params, artifacts: Artifacts
) -> str:
    """Encode nothing: name the rows that training makes anew at each visit, and say so.

    A key is the hash of what the first look at a picture depends on, as of rows that are kept; what
    the visits draw is in the metadata. Both name a training's data.
    """
    given = rows_of(
        to_encode(artifacts.buckets, artifacts.conditions, artifacts.condition_pictures)
    )
    rows = []
    for picture in given:
        kind = kind_of(picture, params.family)
        parts = {} if kind in COLUMNS else identity_of(autoencoder, digest, params)
        factor = 1 if kind in COLUMNS else autoencoder.spatial_factor
        channels = {"masks": 1, "pixels": 3}.get(kind, autoencoder.latent_channels)
        shape = (channels, picture["height"] // factor, picture["width"] // factor)
        rows.append(manifest_row(picture, key_of(described(parts, kind, picture)), "", shape))
    metadata = {"encoder": digest, "family": params.family, BATCH_SIZE: str(params.batch_size)}
    metadata |= drawn.to_metadata()
    write_table(artifacts.latents, to_table(rows, "latents"), "latents", metadata)
    return (
        "nothing encoded: data.cache_latents is false, so training opens and encodes each of "
        f"{len(rows)} pictures at each visit"
    )


def encode(
    autoencoder: Autoencoder,
    digest: str,
    params: Params,
    artifacts: Artifacts,
    fill_only: bool,
    device: str = "cpu",
) -> Count:
    """Do what `run` does, with an autoencoder whose weights have this digest."""
    root = store_root(params.store)
    given = to_encode(artifacts.buckets, artifacts.conditions, artifacts.condition_pictures)
    manifest = Manifest(artifacts.latents, "latents", STAGE, fill_only)
    encoder = picture_encoder(autoencoder, digest, params, device)
    probe = probe_picture(autoencoder)
    generation, encoded = manifest.generation(root, encoder, probe)
    channels = {name: values.shape[1] for name, values in encoded.items()}
    layout = Layout(params, channels, autoencoder.spatial_factor)
    parts: dict[str, Mapping[str, Part]] = {kind: {} for kind in COLUMNS}
    parts["latents"] = {**encoder.parts, "generation": generation.name}
    tables, rows = tables_of(rows_of(given), layout, parts, root)
    metadata = {"encoder": digest, "family": params.family, **generation.to_metadata()}
    load = partial(load_encoder, params, artifacts.vae, device)
    probed = Probe(probe, generation)
    works = {"latents": work_of(params, encoder, load, probed, device, params.decode_workers)}
    works |= {kind: work_of_copies(kind, params) for kind in COLUMNS}
    return manifest.complete(root, to_table(rows, "latents"), metadata, tables, ByKind(works))


@dataclass(frozen=True)
class Layout:
    """The shapes of rows.

    Attributes:
        params: of the stage.
        channels: of each column of latents.
        factor: pixels along a side of a latent's cell.
    """

    params: Params
    channels: Mapping[str, int]
    factor: int

    def columns(self, picture: Bucketed, kind: str) -> dict[str, Column]:
        """Return the columns of a picture's row."""
        height, width = picture["height"], picture["width"]
        if kind in COLUMNS:
            shape = (1 if kind == "masks" else 3, height, width)
            return {COLUMNS[kind]: Column(shape, "uint8")}
        cells = height // self.factor, width // self.factor
        return {name: Column((z, *cells), self.params.dtype) for name, z in self.channels.items()}


def tables_of(
    pictures: Sequence[Bucketed], layout: Layout, parts: Mapping[str, Mapping[str, Part]], root: str
) -> tuple[list[Wanted[Bucketed]], list[dict[str, Any]]]:
    """Lay out the rows that pictures give.

    Args:
        pictures: As `rows_of` gives them.
        layout: The shapes of their rows.
        parts: What a row of each kind depends on besides its picture.
        root: The row store's place.

    Returns:
        The rows of each table, those of masked pictures apart because their inputs are not like
        the others'; and the rows of LATENTS.
    """
    wanted: dict[tuple[str, bool], dict[str, Bucketed]] = {}
    known: dict[str, tuple[str, dict[str, Column]]] = {}  # kind and columns of tables
    rows = []
    for picture in pictures:
        kind = kind_of(picture, layout.params.family)
        columns = layout.columns(picture, kind)
        table, name = table_name(kind, columns), key_of(described(parts[kind], kind, picture))
        known[table] = kind, columns
        wanted.setdefault((table, picture["role"] == "masked"), {})[name] = picture
        rows.append(manifest_row(picture, name, table, next(iter(columns.values())).shape))
    tables = []
    for (table, _), items in sorted(wanted.items()):
        kind, columns = known[table]
        describe = partial(described, parts[kind], kind)
        tables.append(Wanted(RowTable.open(root, table, columns), items, describe))
    return tables, rows


def manifest_row(
    picture: Bucketed, name: str, table: str, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return the row of LATENTS of a picture, whose own row is `name` in `table`."""
    channels, height, width = shape
    return (
        {column: picture[column] for column in CARRIED}
        | {"key": name, "table": table, "channels": channels}
        | {"height": height, "width": width, **sizes(picture)}
    )


def work_of_copies(kind: str, params: Params) -> Work[Bucketed]:
    """Return what fills the tables of a kind that no encoder fills."""
    load = partial(load_copier, kind, params)
    copies, channels = load(), 1 if kind == "masks" else 3
    probe = np.arange(64 * channels, dtype=np.uint8).reshape(8, 8, channels)
    generation = Generation(kind, summary(copies.batches().encode_inputs([probe])))
    probed = Probe(probe, generation)
    return work_of(params, copies, load, probed, "cpu", params.decode_workers)


def load_copier(kind: str, params: Params) -> Encoder[Bucketed]:
    """Return what makes the rows of a kind that no encoder makes."""
    return copier(kind, pictures_of(params), params.batch_size, params.threads)


def load_encoder(params: Params, vae: Path, device: str) -> Encoder[Bucketed]:
    """Load the autoencoder of a record, and encode pictures with it."""
    record = read_record(vae)
    autoencoder = open_autoencoder(record, params.dtype, device)
    return picture_encoder(autoencoder, record.digest, params, device)


def open_autoencoder(record: Record, dtype: str, device: str) -> Autoencoder:
    """Load the autoencoder of a record onto a device."""
    return load_autoencoder(record.folders["vae"], getattr(torch, dtype)).to(device)


def sizes(picture: Bucketed) -> dict[str, int]:
    """Return what SDXL is told of a picture, the columns SIZES."""
    target = {"target_height": picture["height"], "target_width": picture["width"]}
    return {name: picture[name] for name in SIZES if name in picture} | target


def described(others: Mapping[str, Part], kind: str, picture: Bucketed) -> str:
    """Return the text that a picture's key is the hash of; `others` are not the picture's."""
    return parts_text(**picture_parts(picture, kind), **others)


def pictures_of(params: Params) -> Pictures:
    """Return what opens the dataset's pictures."""
    return Pictures(Path(params.train_path), params.background, params.max_pixels)


def picture_encoder(
    autoencoder: Autoencoder, digest: str, params: Params, device: str = "cpu"
) -> Encoder[Bucketed]:
    """Return the encoder of pictures cut to their buckets, uint8 (H, W, 3).

    Of a picture with its mask, (H, W, 4), it encodes what the mask leaves: 0 elsewhere.
    """
    encode_batch = encoding(autoencoder, getattr(torch, params.dtype))
    identity, size = identity_of(autoencoder, digest, params), params.batch_size
    return encoder_of(pictures_of(params), encode_batch, identity, size, params.threads, device)


def identity_of(autoencoder: Autoencoder, digest: str, params: Params) -> dict[str, str]:
    """Name what of an autoencoder its rows depend on, but for its code."""
    return {"encoder": digest, "convention": autoencoder.CONVENTION, "dtype": params.dtype}


def probe_picture(autoencoder: Autoencoder) -> Inputs:
    """Return a fixed picture, uint8 (H, W, 3): coarse squares under noise, all values in use."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 192, (PROBE_CELLS, PROBE_CELLS, 3), dtype=np.uint8)
    factor = autoencoder.spatial_factor
    large = coarse.repeat(factor, axis=0).repeat(factor, axis=1)
    return large + rng.integers(0, 64, large.shape, dtype=np.uint8)
