"""Check given weights: the right family, every component there, every key used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelzoo import families
from modelzoo.autoencoders import load_autoencoder
from modelzoo.create import create_model
from modelzoo.text_encoders import (
    TEXT_PARTS,
    load_text_encoders,
    load_tokenizers,
    text_lengths,
)
from stages.artifacts import read_json

INDEX = "model_index.json"


def check_base(model: Mapping[str, Any]) -> None:
    """Load every component of `model.pretrained_path` strictly, and drop it again.

    Raises:
        FileNotFoundError: The folder or a part of it is not there.
        ValueError: The weights are of another family, or do not fit their configuration.
    """
    folder = Path(model["pretrained_path"])
    check_family(folder, model["type"])
    dtype = getattr(torch, model["dtype"])
    create_model(model)
    load_autoencoder(folder / "vae", dtype)
    family = model["type"]
    parts = [part for part in TEXT_PARTS[family] if (folder / part.encoder).is_dir()]
    tokenizer = load_tokenizers(
        family, {part.tokenizer: folder / part.tokenizer for part in parts}, text_lengths(model)
    )
    encoders = {part.encoder: folder / part.encoder for part in parts}
    load_text_encoders(family, encoders, tokenizer, dtype)


def check_family(folder: Path, family: str) -> None:
    """Compare the pipeline that model_index.json names with the family's."""
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"model.pretrained_path: {str(folder)!r} has no {INDEX}: give a folder in the "
            f"diffusers layout, with one folder for each component"
        )
    index = read_json(folder / INDEX)
    pipeline = index.get("_class_name")
    allowed = families.family(family).pipelines
    if pipeline not in allowed:
        raise ValueError(
            f"model.pretrained_path: {str(folder)!r} holds a {pipeline!r}, but model.type "
            f"{family!r} needs one of {sorted(allowed)!r}: change model.type or the folder"
        )
