"""The columns of every table that one stage writes and another reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = "2"  # of all tables: a changed column is a new version


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


IMAGES = _schema(  # one row a usable picture, sorted by sample_id
    ("sample_id", pa.string()),  # first 20 hex of content; exact duplicates get "-1", "-2" by path
    ("content", pa.string()),  # sha256 of the RGB pixels and the size, see pixels.content_hash
    ("path", pa.string()),  # relative to data.train_path, with forward slashes
    ("width", pa.int32()),  # pixels, after the EXIF orientation is applied
    ("height", pa.int32()),  # pixels
    ("caption", pa.string()),  # as written; null where there is none
    ("split", pa.string()),  # "train" | "validation", by content
    ("role", pa.string()),  # "target"
    nullable=("caption",),
)
LEDGER = _schema(  # what became of each file or sample in one stage, sorted by path
    ("path", pa.string()),  # relative to data.train_path, with forward slashes
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
CAPTIONS = _schema(  # samples that may be used, sorted by sample_id
    ("sample_id", pa.string()),
    ("caption", pa.string()),  # stripped, never empty
)
BUCKETS = _schema(  # geometry of each sample, sorted by sample_id; no captions
    ("sample_id", pa.string()),
    ("content", pa.string()),  # as in IMAGES
    ("path", pa.string()),  # as in IMAGES
    ("split", pa.string()),  # as in IMAGES
    ("bucket", pa.string()),  # "64x32": width x height
    ("resize_width", pa.int32()),  # pixels: the picture is first resized to this size ...
    ("resize_height", pa.int32()),
    ("crop_left", pa.int32()),  # ... then cut at this corner ...
    ("crop_top", pa.int32()),
    ("width", pa.int32()),  # ... to the bucket's size, pixels
    ("height", pa.int32()),
    ("original_width", pa.int32()),  # as in IMAGES: pixels before resizing
    ("original_height", pa.int32()),
)
LATENTS = _schema(  # one row a sample, sorted by sample_id
    ("sample_id", pa.string()),
    ("key", pa.string()),  # of the row in the row store
    ("table", pa.string()),  # name of the row table
    ("split", pa.string()),  # as in IMAGES
    ("bucket", pa.string()),  # as in BUCKETS
    ("channels", pa.int32()),  # of the latent
    ("height", pa.int32()),  # of the latent, cells
    ("width", pa.int32()),  # of the latent, cells
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
