"""Encode each bucketed picture once with the base's autoencoder and name its row in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from modelzoo.autoencoders import Autoencoder, load_autoencoder
from stages import launch, pixels
from stages.base_record import Record, read_record
from stages.encode_images.pictures import Bucketed, Pictures, to_encode
from stages.encoding.batch import Encoder, Inputs, Rows, choose_device, encoder_of
from stages.encoding.missing import Count, Wanted
from stages.encoding.ray_actors import Probe
from stages.encoding.work import work_of
from stages.encoding.writing import Manifest
from stages.params.read import key
from stages.rows.keys import Part, key_of, parts_text, table_name
from stages.rows.layout import Column
from stages.rows.location import store_root
from stages.rows.table import RowTable
from stages.tables import PLACE, SIZES, place, to_table

STAGE = "encode_images"
ROLES = ("target", "reference", "condition")  # masks are no pictures that an autoencoder knows
PROBE_CELLS = 8  # side of the probe picture in latent cells
GEOMETRY = ("resize_width", "resize_height", "crop_left", "crop_top", "width", "height", "flipped")
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
    count = encode(autoencoder, base.digest, params, artifacts, fill_only, device)
    print(count)  # noqa: T201


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
    describe = partial(picture_parts, encoder.parts, generation.name)
    wanted: dict[str, dict[str, Bucketed]] = {}
    columns, rows = {}, []
    for picture in sorted((row for row in given if row["role"] in ROLES), key=place):
        factor = autoencoder.spatial_factor
        height, width = picture["height"] // factor, picture["width"] // factor
        shapes = {name: Column((z, height, width), params.dtype) for name, z in channels.items()}
        table, name = table_name("latents", shapes), key_of(describe(picture))
        columns[table] = shapes
        wanted.setdefault(table, {})[name] = picture
        rows.append(
            {column: picture[column] for column in CARRIED}
            | {"key": name, "table": table, "height": height, "width": width}
            | {"channels": autoencoder.latent_channels, **sizes(picture)}
        )
    metadata = {"encoder": digest, "family": params.family, **generation.to_metadata()}
    tables = [
        Wanted(RowTable.open(root, table, columns[table]), items, describe)
        for table, items in sorted(wanted.items())
    ]
    load = partial(load_encoder, params, artifacts.vae, device)
    work = work_of(params, encoder, load, Probe(probe, generation), device, params.decode_workers)
    return manifest.complete(root, to_table(rows, "latents"), metadata, tables, work)


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


def picture_parts(encoder: Mapping[str, Part], generation: str, picture: Bucketed) -> str:
    """Return the text that a picture's key is the hash of."""
    return parts_text(
        content=picture["content"],
        pixels=pixels.CONVENTION,
        geometry=[picture[name] for name in GEOMETRY],
        generation=generation,
        **encoder,
    )


def picture_encoder(
    autoencoder: Autoencoder, digest: str, params: Params, device: str = "cpu"
) -> Encoder[Bucketed]:
    """Return the encoder of pictures cut to their buckets, uint8 (H, W, 3)."""
    dtype = getattr(torch, params.dtype)
    place = next(autoencoder.parameters()).device

    def encode_batch(batch: Inputs) -> Rows:
        images = torch.from_numpy(batch).to(place).permute(0, 3, 1, 2).to(torch.float32)
        rows = autoencoder.encode_rows((images / 127.5 - 1).to(dtype).contiguous())
        return {name: values.to(dtype).float().cpu().numpy() for name, values in rows.items()}

    prepare = Pictures(Path(params.train_path), params.background, params.max_pixels)
    identity = {"encoder": digest, "convention": autoencoder.CONVENTION, "dtype": params.dtype}
    size, threads = params.batch_size, params.threads
    return encoder_of(prepare, encode_batch, identity, size, threads, device)


def probe_picture(autoencoder: Autoencoder) -> Inputs:
    """Return a fixed picture, uint8 (H, W, 3): coarse squares under noise, all values in use."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 192, (PROBE_CELLS, PROBE_CELLS, 3), dtype=np.uint8)
    factor = autoencoder.spatial_factor
    large = coarse.repeat(factor, axis=0).repeat(factor, axis=1)
    return large + rng.integers(0, 64, large.shape, dtype=np.uint8)
