"""Open and check given weights: the right family, every component there, every key used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from modelzoo.autoencoders import load_autoencoder
from modelzoo.checkpoints import hub
from modelzoo.create import create_model
from modelzoo.text_encoders import TEXT_PARTS, load_text_encoders, load_tokenizers, text_lengths
from stages.artifacts import read_json
from stages.base_record import hub_home
from stages.params import pins
from stages.params.model import Model
from stages.prepare_base.parts import INDEX, Base, check_family, in_folder, part_names
from stages.prepare_base.single_file import convert_file

KEY = "model.pretrained_path"


def given_base(model: Model, made: Path, home: Path) -> Base:
    """Open `model.pretrained_path`, load every component strictly, and drop it again.

    Args:
        model: The section `model`, resolved.
        made: The folder to be made for what a single file holds.
        home: Where that folder will be in the end.

    Raises:
        FileNotFoundError: A component is not there, or Hugging Face cannot be reached.
        ValueError: The weights are of another family, or do not fit their configuration.
    """
    if model.is_single_file:
        base = convert_file(model, made, home)
        check_text(model, base.folders)
        return base
    base = download(model) if pins.is_pinned(model) else open_folder(model)
    (denoiser, *_) = base.folders.values()
    create_model({**dataclasses.asdict(model), "pretrained_path": str(denoiser.parent)})
    load_autoencoder(base.folders["vae"], getattr(torch, model.dtype))
    check_text(model, base.folders)
    return base


def open_folder(model: Model) -> Base:
    """Open a folder in the diffusers layout."""
    folder = Path(str(model.pretrained_path))
    check_family(folder, model.type, KEY)
    return in_folder(model.type, folder, folder)


def download(model: Model) -> Base:
    """Download what is needed of the pinned commit; the family is compared before the weights."""
    pin = pins.read_pin(model)
    try:
        snapshot = hub.download(pin.name, ())
    except FileNotFoundError:  # again, because the error is to list all that is needed
        snapshot = hub.download(pin.name, part_names(model.type, lambda _: True))
    check_family(snapshot, model.type, KEY)
    index = read_json(snapshot / INDEX)
    names = part_names(model.type, lambda name: any(index.get(name) or ()))
    hub.download(f"{pin.repo}@{snapshot.name}", names)
    home = hub_home(pin.repo, snapshot.name)
    return Base(
        index, {name: snapshot / name for name in names}, {name: home / name for name in names}
    )


def check_text(model: Model, folders: Mapping[str, Path]) -> None:
    """Load the tokenizers and the text encoders."""
    encoders = {
        p.encoder: folders[p.encoder] for p in TEXT_PARTS[model.type] if p.encoder in folders
    }
    tokenizer = load_tokenizers(model.type, folders, text_lengths(dataclasses.asdict(model)))
    load_text_encoders(model.type, encoders, tokenizer, getattr(torch, model.dtype))
