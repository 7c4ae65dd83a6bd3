"""What the rows of a workspace will be made from, as far as that is known before encoding.

The encoder itself is not loaded, so its code's generation is taken from the last manifest, if that
was made with the same weights; a changed encoding formula shows only when the stage runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.artifacts import extra_metadata, read_json, read_table
from stages.base_record import Record, read_record
from stages.class_images import FOLDER, read_index, told_of_class
from stages.params.read import key
from stages.picture_rows import FORMS, kind_of, picture_parts, rows_of
from stages.rows.keys import parts_text
from stages.rows.layout import STORED
from stages.store.tables import LATENTS, PROMPTS, read_manifests
from stages.tables import latent_name
from stages.visit_geometry import Drawn

BUCKETS, CAPTIONS = Path("data/buckets.parquet"), Path("data/captions.parquet")
CONDITIONS = Path("data/conditions.parquet")  # pictures made for a ControlNet
BASE = Path("data/base")
MOMENTS = {"AutoencoderKL": 2}  # mean and log variance; others have the mean only


@dataclass(frozen=True)
class Params:
    """What rows depend on, and where they are."""

    family: str = key("model.type")
    dtype: str = key("model.dtype")
    batch_size: int = key("hardware.encode_batch_size")
    threads: int = key("hardware.threads")
    train_path: str = key("data.train_path")
    store: str | None = key("data.store", tracked=False)


@dataclass(frozen=True)
class Expected:
    """One row that the workspace needs.

    Attributes:
        kind: "latents", "masks", "pixels" or "text".
        name: of the picture (`tables.latent_name`), or the caption.
        aliases: what else a user may call it.
        parts: what its key will be the hash of, without what is not known yet.
        num_bytes: of its values; None where that is not known yet.
    """

    kind: str
    name: str
    aliases: tuple[str, ...]
    parts: Mapping[str, Any]
    num_bytes: int | None


def expected_pictures(params: Params, workspace: Path = Path()) -> list[Expected]:
    """Return the rows that encode_images needs: none where training encodes.

    Raises:
        FileNotFoundError: bucket or prepare_base has not run.
    """
    if not keeps_pictures(workspace):
        return []
    buckets = read_table(workspace / BUCKETS, "buckets").to_pylist()
    made = read_table(workspace / CONDITIONS, "buckets").to_pylist()
    record = read_record(workspace / BASE / "vae.json")
    common = _common(params, record, read_manifests(workspace).get(LATENTS))
    per_pixel = _bytes_per_pixel(params, record)
    found = []
    for row in rows_of([*buckets, *made]):
        kind = kind_of(row, params.family)
        of_pixel = {"masks": 1, "pixels": 3}.get(kind, per_pixel)
        found.append(
            Expected(
                kind=kind,
                name=latent_name(row),
                aliases=(row["sample_id"], row["path"], f"{params.train_path}/{row['path']}"),
                parts=picture_parts(row, kind) | ({} if kind in FORMS else common),
                num_bytes=round(of_pixel * row["width"] * row["height"]),
            )
        )
    return found


def keeps_pictures(workspace: Path = Path()) -> bool:
    """Say whether pictures have rows at all, as data.cache_latents asks for."""
    buckets = read_table(workspace / BUCKETS, "buckets")
    return Drawn.from_metadata(extra_metadata(buckets)) is None


def expected_captions(params: Params, workspace: Path = Path()) -> list[Expected]:
    """Return the rows that encode_captions needs; equal captions share one.

    Raises:
        FileNotFoundError: check_captions or prepare_base has not run.
    """
    from stages.tokenizers import open_tokenizers  # slow

    captions = set(read_table(workspace / CAPTIONS, "captions")["caption"].to_pylist())
    captions |= told_of_class(read_index(workspace / FOLDER), captions)
    tokenizer = open_tokenizers(params.family, read_record(workspace / BASE / "tokenizer.json"))
    record = read_record(workspace / BASE / "text_encoder.json")
    common = _common(params, record, read_manifests(workspace).get(PROMPTS))
    found = []
    for caption in sorted({"", *captions}):
        ids, mask = np.array(tokenizer.tokens(caption), dtype=np.int64).tolist()
        tokens = json.loads(parts_text(ids=ids, mask=mask))
        found.append(Expected("text", caption, (), common | tokens, None))
    return found


def _common(params: Params, record: Record, manifest: pa.Table | None) -> dict[str, Any]:
    """Return the parts that all rows of a stage share."""
    parts: dict[str, Any] = {"encoder": record.digest, "dtype": params.dtype}
    parts |= {"batch_size": params.batch_size, "threads": params.threads}  # not of a GPU's rows
    made = extra_metadata(manifest) if manifest is not None else {}
    if made.get("encoder") == record.digest and "generation" in made:  # not of pictures uncached
        parts["generation"] = made["generation"]
    return parts


def _bytes_per_pixel(params: Params, record: Record) -> float:
    config = read_json(record.folders["vae"] / "config.json")
    levels = len(config["block_out_channels"])
    num_values = MOMENTS.get(config["_class_name"], 1) * config["latent_channels"]
    return num_values * np.dtype(STORED[params.dtype]).itemsize / 4 ** (levels - 1)
