"""Encode each distinct caption, and the empty one, once with the base's text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from modelzoo.text_encoders import PromptTokenizer, load_text_encoders
from modelzoo.text_encoders.text_encoder import TextEncoder
from stages import launch
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
from stages.tables import to_table
from stages.tokenizers import open_tokenizers

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
    """Captions and the base's tokenizers and text encoders in; the keys of the rows out."""

    captions: Path = Path("data/captions.parquet")
    tokenizer: Path = Path("data/base/tokenizer.json")
    text_encoder: Path = Path("data/base/text_encoder.json")
    prompts: Path = Path("data/prompts.parquet")


def run(params: Params, artifacts: Artifacts = Artifacts(), fill_only: bool = False) -> None:
    """Encode the captions whose rows the store lacks, and write the keys of all rows."""
    launch.use_threads(params.threads)
    tokenizer = open_tokenizers(params.family, read_record(artifacts.tokenizer))
    base, dtype = read_record(artifacts.text_encoder), getattr(torch, params.dtype)
    text_encoder = load_text_encoders(
        params.family, base.folders, tokenizer, dtype, base.settings["zero_empty"]
    )
    count = encode(text_encoder, base.digest, tokenizer, params, artifacts, fill_only)
    print(count)  # noqa: T201


def encode(
    text_encoder: TextEncoder,
    digest: str,
    tokenizer: PromptTokenizer,
    params: Params,
    artifacts: Artifacts,
    fill_only: bool,
) -> Count:
    """Do what `run` does, with text encoders whose record has this digest."""
    root = store_root(params.store)
    captions = set(read_table(artifacts.captions, "captions")["caption"].to_pylist())
    encoded = {caption: tokens(tokenizer, caption) for caption in sorted(captions | {""})}
    manifest = Manifest(artifacts.prompts, "prompts", STAGE, fill_only)
    encoder = caption_encoder(text_encoder, digest, params)
    generation, probe = manifest.generation(root, encoder, tokens(tokenizer, PROBE))
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
    caption: Inputs, text_encoder: TextEncoder, encoder: FixedBatch[Inputs], generation: str
) -> str:
    """Return the key of a caption's row; captions of equal tokens share one."""
    return row_key(
        ids=caption[0].tolist(),
        mask=caption[1].tolist(),
        layers=list(text_encoder.layers),
        generation=generation,
        **encoder.parts,
    )


def caption_encoder(text_encoder: TextEncoder, digest: str, params: Params) -> FixedBatch[Inputs]:
    """Return the encoder of tokens (2, L): ids and mask of all tokenizers, one after the other."""

    def encode_batch(batch: Inputs) -> dict[str, Array]:
        ids, mask = torch.from_numpy(batch).unbind(1)
        rows = text_encoder.encode_rows(ids.contiguous(), mask.contiguous())
        return {name: values.float().numpy() for name, values in rows.items()}

    return FixedBatch(
        prepare=lambda caption: caption,
        encode=encode_batch,
        size=params.batch_size,
        threads=params.threads,
        identity={"encoder": digest, "convention": text_encoder.CONVENTION, "dtype": params.dtype},
    )


def tokens(tokenizer: PromptTokenizer, caption: str) -> Inputs:
    """Stack ids and mask as int64 (2, L)."""
    return np.array(tokenizer.tokens(caption), dtype=np.int64)


if __name__ == "__main__":
    launch.main(STAGE, partial(run, fill_only=fill.is_asked_for(STAGE)), Params)
