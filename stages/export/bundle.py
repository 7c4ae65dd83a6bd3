"""Assemble the diffusers folder of a model: the trained denoiser and the base around it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modelzoo.checkpoints.digest import component_digest, component_files
from modelzoo.checkpoints.folder import (
    DIFFUSERS_STEM,
    TRANSFORMERS_STEM,
    weight_files,
    write_json,
)
from stages.artifacts import read_json
from stages.base_record import Part, read_record

FROZEN = ("vae", "text_encoder", "tokenizer", "scheduler")  # components
INDEX = "model_index.json"
NO_TEXT: Mapping[str, Path] = MappingProxyType({})


def assemble(
    folder: Path,
    denoiser: Path,
    base: Path,
    name: str,
    upstream: Mapping[str, str],
    text: Mapping[str, Path] = NO_TEXT,
) -> None:
    """Write the diffusers folder.

    Args:
        folder: Where to; made here.
        denoiser: The trained weights.
        base: Holds a record (class, path, digest) of each component of the base.
        name: Of the denoiser's folder in the layout.
        upstream: What the weights came from; goes into the header of the weight files.
        text: Trained text encoders, which take the place of the base's, by their names.

    Raises:
        FileNotFoundError: A component of the base is not there any more.
        ValueError: A component of the base is not what it was when training began.
    """
    folder.mkdir(parents=True)
    parts = frozen_parts(base)
    write_json(_model_index(base, {name, *parts}), folder / INDEX)
    write_weights(folder / name, denoiser, upstream)
    for part, weights in text.items():
        write_weights(folder / part, weights, upstream)
    for part, source in parts.items():
        if part in text:
            continue
        (folder / part).mkdir()
        for file in component_files(source.folder):
            shutil.copy(file, folder / part)
        if component_digest(folder / part) != source.digest:
            raise ValueError(
                f"{source.path} has changed since the records in {base} were written: run "
                "`dvc repro`, which checks the base and trains on what is there now"
            )


def frozen_parts(base: Path) -> dict[str, Part]:
    """Give every folder of the base that training leaves as it is."""
    records = [read_record(base / f"{component}.json") for component in FROZEN]
    return {name: part for record in records for name, part in record.parts.items()}


def base_digests(base: Path) -> dict[str, str]:
    """Give the digest of each folder of the base."""
    parts = {**read_record(base / "denoiser.json").parts, **frozen_parts(base)}
    return {name: part.digest for name, part in parts.items()}


def _model_index(base: Path, kept: Set[str]) -> dict[str, Any]:
    """Give the base's own model_index.json, less components that are not exported."""
    (trained,) = read_record(base / "denoiser.json").folders.values()
    path = trained.parent / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there, but an export needs it: give model.pretrained_path a whole "
            "diffusers folder"
        )
    index: dict[str, Any] = read_json(path)
    return {k: v for k, v in index.items() if k in kept or not isinstance(v, list)}


def write_weights(folder: Path, source: Path, upstream: Mapping[str, str]) -> None:
    """Copy the weights with `upstream` in the header of each file."""
    folder.mkdir()
    for file in weight_files(source):
        copy_with_metadata(file, folder / file.name, header_of(upstream))
    indices = [f"{stem}.safetensors.index.json" for stem in (DIFFUSERS_STEM, TRANSFORMERS_STEM)]
    for name in ("config.json", *indices):
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)


def header_of(upstream: Mapping[str, str]) -> dict[str, str]:
    """Give the metadata of a weight file: what the weights came from."""
    return {"format": "pt", **{f"diffbase.{name}": text for name, text in upstream.items()}}


def copy_with_metadata(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Copy a safetensors file byte for byte behind a header of our own.

    The library writes metadata in random order, which would change the file's digest each time.
    The format: header length in 8 bytes, JSON padded with spaces to a multiple of 8, tensors.
    """
    with source.open("rb") as old, target.open("wb") as new:
        length = int.from_bytes(old.read(8), "little")
        header = {**json.loads(old.read(length)), "__metadata__": dict(metadata)}
        text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
        text += b" " * (-len(text) % 8)
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new, 1 << 24)
