"""Encode each bucketed picture once with the base's autoencoder and name its row in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from modelzoo.autoencoders import Autoencoder, load_autoencoder
from stages import launch, pixels
from stages.artifacts import read_table
from stages.base_record import read_record
from stages.params.read import key
from stages.rows import fill
from stages.rows.encoding import Count, FixedBatch, Inputs, Wanted
from stages.rows.keys import row_key, table_name
from stages.rows.layout import Array
from stages.rows.location import store_root
from stages.rows.table import RowTable
from stages.rows.writing import Manifest
from stages.tables import SIZES, to_table

STAGE = "encode_images"
PROBE_CELLS = 8  # side of the probe picture in latent cells
GEOMETRY = ("resize_width", "resize_height", "crop_left", "crop_top", "width", "height")

Bucketed: TypeAlias = Mapping[str, Any]  # a row of BUCKETS


@dataclass(frozen=True)
class Params:
    """What the rows depend on, and where they are kept."""

    family: str = key("model.type")
    dtype: str = key("model.dtype")
    train_path: str = key("data.train_path")
    batch_size: int = key("hardware.encode_batch_size")
    threads: int = key("hardware.threads")
    store: str | None = key("data.store", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """Geometry and the base's autoencoder in; the keys of the rows out."""

    buckets: Path = Path("data/buckets.parquet")
    vae: Path = Path("data/base/vae.json")
    latents: Path = Path("data/latents.parquet")


def run(params: Params, artifacts: Artifacts = Artifacts(), fill_only: bool = False) -> None:
    """Encode the pictures whose rows the store lacks, and write the keys of all rows."""
    launch.use_threads(params.threads)
    base = read_record(artifacts.vae)
    autoencoder = load_autoencoder(base.folders["vae"], getattr(torch, params.dtype))
    count = encode(autoencoder, base.digest, params, artifacts, fill_only)
    print(count)  # noqa: T201


def encode(
    autoencoder: Autoencoder, digest: str, params: Params, artifacts: Artifacts, fill_only: bool
) -> Count:
    """Do what `run` does, with an autoencoder whose weights have this digest."""
    root = store_root(params.store)
    buckets = read_table(artifacts.buckets, "buckets").to_pylist()
    manifest = Manifest(artifacts.latents, "latents", STAGE, fill_only)
    encoder = picture_encoder(autoencoder, digest, params)
    generation, probe = manifest.generation(root, encoder, probe_picture(autoencoder))
    channels = {name: values.shape[1] for name, values in probe.items()}
    wanted: dict[str, dict[str, Bucketed]] = {}
    shapes, rows = {}, []
    for picture in sorted(buckets, key=lambda row: str(row["sample_id"])):
        factor = autoencoder.spatial_factor
        height, width = picture["height"] // factor, picture["width"] // factor
        columns = {name: (count, height, width) for name, count in channels.items()}
        table, name = table_name("latents", columns), picture_key(picture, encoder, generation.name)
        shapes[table] = columns
        wanted.setdefault(table, {})[name] = picture
        rows.append(
            {column: picture[column] for column in ("sample_id", "split", "bucket")}
            | {"key": name, "table": table, "height": height, "width": width}
            | {"channels": autoencoder.latent_channels, **sizes(picture)}
        )
    metadata = {"encoder": digest, "family": params.family, **generation.to_metadata()}
    tables = [
        Wanted(RowTable.open(root, table, shapes[table]), items)
        for table, items in sorted(wanted.items())
    ]
    return manifest.complete(root, to_table(rows, "latents"), metadata, tables, encoder)


def sizes(picture: Bucketed) -> dict[str, int]:
    """Return what SDXL is told of a picture, the columns SIZES."""
    target = {"target_height": picture["height"], "target_width": picture["width"]}
    return {name: picture[name] for name in SIZES if name in picture} | target


def picture_key(picture: Bucketed, encoder: FixedBatch[Bucketed], generation: str) -> str:
    """Return the key of a picture's row."""
    return row_key(
        content=picture["content"],
        pixels=pixels.CONVENTION,
        geometry=[picture[name] for name in GEOMETRY],
        generation=generation,
        **encoder.parts,
    )


def picture_encoder(autoencoder: Autoencoder, digest: str, params: Params) -> FixedBatch[Bucketed]:
    """Return the encoder of pictures cut to their buckets, uint8 (H, W, 3)."""
    dtype = getattr(torch, params.dtype)

    def encode_batch(batch: Inputs) -> dict[str, Array]:
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        rows = autoencoder.encode_rows(images.to(dtype).contiguous())
        return {name: values.float().numpy() for name, values in rows.items()}

    return FixedBatch(
        prepare=partial(open_picture, Path(params.train_path)),
        encode=encode_batch,
        size=params.batch_size,
        threads=params.threads,
        identity={"encoder": digest, "convention": autoencoder.CONVENTION, "dtype": params.dtype},
    )


def open_picture(folder: Path, picture: Bucketed) -> Inputs:
    """Open a picture, make sure that it is the one that ingest read, and cut it to its bucket."""
    path = folder / picture["path"]
    try:
        image = pixels.open_rgb(path)
        content = pixels.content_hash(image)
    except (pixels.UnreadableImageError, FileNotFoundError) as error:
        content = f"unreadable ({error})"
    if content != picture["content"]:
        raise ValueError(
            f"{path} is no longer the picture that ingest read: run `dvc repro`, which reads it"
            " again"
        )
    return pixels.crop_to_bucket(image, picture)


def probe_picture(autoencoder: Autoencoder) -> Inputs:
    """Return a fixed picture, uint8 (H, W, 3): coarse squares under noise, all values in use."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 192, (PROBE_CELLS, PROBE_CELLS, 3), dtype=np.uint8)
    factor = autoencoder.spatial_factor
    large = coarse.repeat(factor, axis=0).repeat(factor, axis=1)
    return large + rng.integers(0, 64, large.shape, dtype=np.uint8)


if __name__ == "__main__":
    launch.main(STAGE, partial(run, fill_only=fill.is_asked_for(STAGE)), Params)
