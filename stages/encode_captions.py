"""Encode each distinct caption, and the empty one, once with the base's text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from modelzoo.text_encoders import PromptTokenizer, load_text_encoders
from modelzoo.text_encoders.text_encoder import TextEncoder
from stages import launch
from stages.artifacts import read_table
from stages.base_record import Record, read_record
from stages.class_images import FOLDER, read_index, told_of_class
from stages.encoding.batch import Encoder, Inputs, Rows, choose_device, encoder_of
from stages.encoding.missing import Count, Wanted
from stages.encoding.ray_actors import Probe
from stages.encoding.work import work_of
from stages.encoding.writing import Manifest
from stages.params.read import key
from stages.rows import fill
from stages.rows.keys import Part, key_of, parts_text, table_name
from stages.rows.layout import Column
from stages.rows.location import store_root
from stages.rows.table import RowTable
from stages.tables import to_table
from stages.tokenizers import open_tokenizers

STAGE = "encode_captions"
PROBE = "a red cube on a blue table, photographed at dawn"


@dataclass(frozen=True)
class Params:
    """What the rows depend on, where they are kept, and who encodes them."""

    family: str = key("model.type")
    dtype: str = key("model.dtype")
    batch_size: int = key("hardware.encode_batch_size")
    threads: int = key("hardware.threads")
    store: str | None = key("data.store", tracked=False)
    workers: str = key("hardware.encode_workers", tracked=False)
    ray_address: str | None = key("hardware.ray_address", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """Captions, prior and the base's text encoders in; the keys of the rows out."""

    captions: Path = Path("data/captions.parquet")
    tokenizer: Path = Path("data/base/tokenizer.json")
    text_encoder: Path = Path("data/base/text_encoder.json")
    prompts: Path = Path("data/prompts.parquet")
    class_images: Path = FOLDER  # of DreamBooth's prior


def run(params: Params, artifacts: Artifacts = Artifacts(), fill_only: bool = False) -> None:
    """Encode the captions whose rows the store lacks, and write the keys of all rows."""
    launch.use_threads(params.threads)
    device = choose_device()
    tokenizer = open_tokenizers(params.family, read_record(artifacts.tokenizer))
    base = read_record(artifacts.text_encoder)
    text_encoder = open_text_encoder(base, tokenizer, params, device)
    count = encode(text_encoder, base.digest, tokenizer, params, artifacts, fill_only, device)
    print(count)  # noqa: T201


def encode(
    text_encoder: TextEncoder,
    digest: str,
    tokenizer: PromptTokenizer,
    params: Params,
    artifacts: Artifacts,
    fill_only: bool,
    device: str = "cpu",
) -> Count:
    """Do what `run` does, with text encoders whose record has this digest."""
    root = store_root(params.store)
    captions = set(read_table(artifacts.captions, "captions")["caption"].to_pylist())
    captions |= told_of_class(read_index(artifacts.class_images), captions)
    manifest = Manifest(artifacts.prompts, "prompts", STAGE, fill_only)
    encoder = caption_encoder(text_encoder, digest, params, device)
    probe = tokens(tokenizer, PROBE)
    generation, encoded = manifest.generation(root, encoder, probe)
    columns = {name: Column(values.shape[1:], params.dtype) for name, values in encoded.items()}
    table = table_name("text", columns)
    describe = partial(caption_parts, encoder.parts, text_encoder.layers, generation.name)
    items: dict[str, Inputs] = {}
    rows = []
    for caption in sorted(captions | {""}):
        inputs = tokens(tokenizer, caption)
        name = key_of(describe(inputs))
        items[name] = inputs  # captions of equal tokens share a row
        rows.append({"caption": caption, "key": name, "table": table})
    wanted = [Wanted(RowTable.open(root, table, columns), items, describe)]
    metadata = {"encoder": digest, "family": params.family, **generation.to_metadata()}
    load = partial(load_encoder, params, artifacts, device)
    work = work_of(params, encoder, load, Probe(probe, generation), device)
    return manifest.complete(root, to_table(rows, "prompts"), metadata, wanted, work)


def load_encoder(params: Params, artifacts: Artifacts, device: str) -> Encoder[Inputs]:
    """Load the text encoders of a record, and encode tokens with them."""
    tokenizer = open_tokenizers(params.family, read_record(artifacts.tokenizer))
    base = read_record(artifacts.text_encoder)
    text_encoder = open_text_encoder(base, tokenizer, params, device)
    return caption_encoder(text_encoder, base.digest, params, device)


def open_text_encoder(
    base: Record, tokenizer: PromptTokenizer, params: Params, device: str
) -> TextEncoder:
    """Load the text encoders of a record onto a device."""
    dtype, zero_empty = getattr(torch, params.dtype), base.settings["zero_empty"]
    loaded = load_text_encoders(params.family, base.folders, tokenizer, dtype, zero_empty)
    return loaded.to(device)


def caption_parts(
    encoder: Mapping[str, Part], layers: Sequence[int], generation: str, caption: Inputs
) -> str:
    """Return the text that a caption's key is the hash of."""
    return parts_text(
        ids=caption[0].tolist(),
        mask=caption[1].tolist(),
        layers=list(layers),
        generation=generation,
        **encoder,
    )


def caption_encoder(
    text_encoder: TextEncoder, digest: str, params: Params, device: str = "cpu"
) -> Encoder[Inputs]:
    """Return the encoder of tokens (2, L): ids and mask of all tokenizers, one after the other."""
    dtype = getattr(torch, params.dtype)
    place = next(text_encoder.parameters()).device

    def encode_batch(batch: Inputs) -> Rows:
        ids, mask = torch.from_numpy(batch).to(place).unbind(1)
        rows = text_encoder.encode_rows(ids.contiguous(), mask.contiguous())
        return {name: values.to(dtype).float().cpu().numpy() for name, values in rows.items()}

    identity = {"encoder": digest, "convention": text_encoder.CONVENTION, "dtype": params.dtype}
    size, threads = params.batch_size, params.threads
    return encoder_of(as_it_is, encode_batch, identity, size, threads, device)


def as_it_is(caption: Inputs) -> Inputs:
    """Prepare tokens, which are ready."""
    return caption


def tokens(tokenizer: PromptTokenizer, caption: str) -> Inputs:
    """Stack ids and mask as int64 (2, L)."""
    return np.array(tokenizer.tokens(caption), dtype=np.int64)


if __name__ == "__main__":
    fill_only = fill.is_asked_for(STAGE)
    launch.main(STAGE, partial(run, fill_only=fill_only), Params, has_options=True)
