"""The columns of every table that one stage writes and another reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = "4"  # of all tables: a changed column is a new version


SIZES = (  # what SDXL is told of a picture, in its order, pixels
    "original_height",  # before resizing
    "original_width",
    "crop_top",  # of the crop's corner in the resized picture
    "crop_left",
    "target_height",  # of the crop, which is the bucket
    "target_width",
)


def _schema(*columns: tuple[str, pa.DataType], nullable: tuple[str, ...] = ()) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=name in nullable) for name, kind in columns])


ROLES = ("target", "reference", "mask", "condition")  # what a picture is to its sample
ENCODED = (*ROLES, "masked")  # of LATENTS: the last is the target without what its mask covers
IMAGES = _schema(  # one row a usable picture in one role, sorted by sample_id, role as ROLES, index
    ("sample_id", pa.string()),  # first 20 hex of the target's content; equal ones get "-1", "-2"
    ("role", pa.string()),  # one of ROLES; each sample has one target
    ("index", pa.int32()),  # of several references of a sample, from 0; 0 for other roles
    ("content", pa.string()),  # sha256 of the RGB pixels and the size, see pixels.content_hash
    ("path", pa.string()),  # relative to data.train_path, with "/"; see dataset.files
    ("width", pa.int32()),  # pixels, after the EXIF orientation is applied
    ("height", pa.int32()),  # pixels
    ("captions", pa.list_(pa.string())),  # of the target, as written; none for other roles
    ("split", pa.string()),  # "train" | "validation", by content; of the sample
    ("dataset", pa.string()),  # its path in data.datasets; "" where there is one dataset
    ("repeats", pa.int32()),  # visits to the sample in an epoch
    ("weight", pa.float64()),  # of the sample's loss
    ("prior", pa.bool_()),  # whether the base made it, for DreamBooth's prior
    ("focal_x", pa.float64()),  # what a crop should keep, as a fraction of the width ...
    ("focal_y", pa.float64()),  # ... and height; null where the dataset does not say
    ("perceptual_hash", pa.string()),  # 16 hex digits
    ("notes", pa.string()),  # what opening changed, such as "EXIF rotated"; "" for nothing
    nullable=("focal_x", "focal_y"),
)
LEDGER = _schema(  # what became of each file or sample in one stage, sorted by path
    ("path", pa.string()),  # relative to data.train_path, with "/"; see dataset.files
    ("sample_id", pa.string()),  # null where the file never became a sample
    ("stage", pa.string()),  # the stage that decided
    ("fate", pa.string()),  # one of FATES
    ("reason", pa.string()),  # "" where kept
    nullable=("sample_id",),
)
FATES = (
    "kept",  # goes on to training
    "validation",  # goes on, never trained on
    "excluded",  # usable, but the rules leave it out
    "quarantined",  # could not be read
)
FATE_OF_SPLIT = {"train": "kept", "validation": "validation"}  # of a sample that goes on
CAPTIONS = _schema(  # captions of the samples that may be used, sorted by sample_id and variant
    ("sample_id", pa.string()),
    ("variant", pa.int32()),  # from 0; each visit to the sample takes one
    ("caption", pa.string()),  # stripped, never empty
)
PLACE = (  # what names a row of BUCKETS and LATENTS, and sorts them
    ("sample_id", pa.string()),  # as in IMAGES, like role and index
    ("role", pa.string()),  # sorted as ENCODED
    ("index", pa.int32()),
    ("resolution", pa.int32()),  # pixels: the one of data.resolution(s) that this row is for
    ("variant", pa.int32()),  # crop or mirror image, from 0; each visit takes one
)
BUCKETS = _schema(  # geometry of each picture to encode, sorted by PLACE; no captions
    *PLACE,
    ("content", pa.string()),  # as in IMAGES
    ("path", pa.string()),  # as in IMAGES
    ("split", pa.string()),  # as in IMAGES
    ("repeats", pa.int32()),  # as in IMAGES
    ("weight", pa.float64()),  # as in IMAGES
    ("prior", pa.bool_()),  # as in IMAGES
    ("bucket", pa.string()),  # "64x32": width x height
    ("resize_width", pa.int32()),  # pixels: the picture is first resized to this size ...
    ("resize_height", pa.int32()),
    ("crop_left", pa.int32()),  # ... then cut at this corner ...
    ("crop_top", pa.int32()),
    ("width", pa.int32()),  # ... to the bucket's size, pixels ...
    ("height", pa.int32()),
    ("flipped", pa.bool_()),  # ... and then mirrored left to right
    ("original_width", pa.int32()),  # as in IMAGES: pixels before resizing
    ("original_height", pa.int32()),
)
LATENTS = _schema(  # one row a row of BUCKETS, and one of each target with a mask, sorted by PLACE
    *PLACE,
    ("key", pa.string()),  # of the row in the row store
    ("table", pa.string()),  # name of the row table
    ("split", pa.string()),  # as in IMAGES
    ("repeats", pa.int32()),  # as in IMAGES
    ("weight", pa.float64()),  # as in IMAGES
    ("prior", pa.bool_()),  # as in IMAGES
    ("bucket", pa.string()),  # as in BUCKETS
    ("channels", pa.int32()),  # of the row: of latents, or of pixels (masks, SDXL's conditions)
    ("height", pa.int32()),  # of the row: cells of latents, or pixels
    ("width", pa.int32()),  # likewise
    *((name, pa.int32()) for name in SIZES),
)
PROMPTS = _schema(  # one row a distinct caption and one for "", sorted by caption
    ("caption", pa.string()),
    ("key", pa.string()),  # of the row in the row store
    ("table", pa.string()),  # name of the row table
)
SCHEMAS = {
    "images": IMAGES,
    "ledger": LEDGER,
    "captions": CAPTIONS,
    "buckets": BUCKETS,
    "latents": LATENTS,
    "prompts": PROMPTS,
}


def place(row: Mapping[str, Any]) -> tuple[str, int, int, int, int]:
    """Return where a row of IMAGES, BUCKETS or LATENTS stands in its table."""
    role = ENCODED.index(row["role"])
    return row["sample_id"], role, row["index"], row.get("resolution", 0), row.get("variant", 0)


def latent_name(row: Mapping[str, Any]) -> str:
    """Name a row of BUCKETS or LATENTS; no other row of its table has the name."""
    place = "{sample_id}@{resolution}/{role}{index}/{variant}"
    return place.format_map(row)


def to_table(rows: Iterable[Mapping[str, Any]], schema_name: str) -> pa.Table:
    """Return `rows` as a table; a row with a missing or surplus column is an error."""
    schema = SCHEMAS[schema_name]
    listed = [dict(row) for row in rows]
    for row in listed:
        if row.keys() != set(schema.names):
            raise ValueError(
                f"a row for table {schema_name!r} has the columns {sorted(row)}, "
                f"but needed are {sorted(schema.names)}"
            )
    return pa.Table.from_pylist(listed, schema=schema)
