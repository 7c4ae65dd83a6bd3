"""Encode each distinct caption, and the empty one, once with the base's text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from modelzoo.text_encoders import Encoded, Tokenizer, load_text_encoder, load_tokenizer
from modelzoo.text_encoders.text_encoder import TextEncoder
from stages import launch
from stages.artifacts import read_json, read_table
from stages.params.read import key
from stages.rows import fill
from stages.rows.encoding import Count, FixedBatch, Inputs, Wanted
from stages.rows.keys import row_key, table_name
from stages.rows.layout import Array
from stages.rows.location import store_root
from stages.rows.table import RowTable
from stages.rows.writing import Manifest
from stages.tables import to_table

STAGE = "encode_captions"
PROBE = "a red cube on a blue table, photographed at dawn"


@dataclass(frozen=True)
class Params:
    """What the rows depend on, and where they are kept."""

    family: str = key("model.type")
    dtype: str = key("model.dtype")
    batch_size: int = key("hardware.encode_batch_size")
    threads: int = key("hardware.threads")
    store: str | None = key("data.store", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """Captions and the base's tokenizer and text encoder in; the keys of the rows out."""

    captions: Path = Path("data/captions.parquet")
    tokenizer: Path = Path("data/base/tokenizer.json")
    text_encoder: Path = Path("data/base/text_encoder.json")
    prompts: Path = Path("data/prompts.parquet")


def run(params: Params, artifacts: Artifacts = Artifacts(), fill_only: bool = False) -> None:
    """Encode the captions whose rows the store lacks, and write the keys of all rows."""
    launch.use_threads(params.threads)
    tokenizer = load_tokenizer(Path(read_json(artifacts.tokenizer)["path"]))
    base = read_json(artifacts.text_encoder)
    dtype = getattr(torch, params.dtype)
    text_encoder = load_text_encoder(Path(base["path"]), tokenizer, dtype)
    count = encode(text_encoder, base["digest"], tokenizer, params, artifacts, fill_only)
    print(count)  # noqa: T201


def encode(
    text_encoder: TextEncoder,
    digest: str,
    tokenizer: Tokenizer,
    params: Params,
    artifacts: Artifacts,
    fill_only: bool,
) -> Count:
    """Do what `run` does, with a text encoder whose weights have this digest."""
    root = store_root(params.store)
    captions = set(read_table(artifacts.captions, "captions")["caption"].to_pylist())
    encoded = {caption: tokenizer.ids(caption) for caption in sorted(captions | {""})}
    manifest = Manifest(artifacts.prompts, "prompts", STAGE, fill_only)
    encoder = caption_encoder(text_encoder, digest, params)
    generation, probe = manifest.generation(root, encoder, tokens(tokenizer.ids(PROBE)))
    columns = {name: values.shape[1:] for name, values in probe.items()}
    table = table_name("text", columns)
    keys = {
        caption: caption_key(each, text_encoder, encoder, generation.name)
        for caption, each in encoded.items()
    }
    rows = [{"caption": caption, "key": name, "table": table} for caption, name in keys.items()]
    items = {name: encoded[caption] for caption, name in keys.items()}
    wanted = [Wanted(RowTable.open(root, table, columns), items)]
    metadata = {"encoder": digest, "family": params.family, **generation.to_metadata()}
    return manifest.complete(root, to_table(rows, "prompts"), metadata, wanted, encoder)


def caption_key(
    caption: Encoded, text_encoder: TextEncoder, encoder: FixedBatch[Encoded], generation: str
) -> str:
    """Return the key of a caption's row; captions of equal tokens share one."""
    return row_key(
        ids=caption.ids,
        mask=caption.mask,
        layers=list(text_encoder.layers),
        generation=generation,
        **encoder.parts,
    )


def caption_encoder(text_encoder: TextEncoder, digest: str, params: Params) -> FixedBatch[Encoded]:
    """Return the encoder of tokens (2, L): ids and mask."""

    def encode_batch(batch: Inputs) -> dict[str, Array]:
        ids, mask = torch.from_numpy(batch).unbind(1)
        rows = text_encoder.encode_rows(ids.contiguous(), mask.contiguous())
        return {name: values.float().numpy() for name, values in rows.items()}

    return FixedBatch(
        prepare=tokens,
        encode=encode_batch,
        size=params.batch_size,
        threads=params.threads,
        identity={"encoder": digest, "convention": text_encoder.CONVENTION, "dtype": params.dtype},
    )


def tokens(caption: Encoded) -> Inputs:
    """Stack ids and mask as int64 (2, L)."""
    return np.array([caption.ids, caption.mask], dtype=np.int64)


if __name__ == "__main__":
    launch.main(STAGE, partial(run, fill_only=fill.is_asked_for(STAGE)), Params)
