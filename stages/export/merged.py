"""Merge adapters into the weights of the base, of its denoiser and of its text encoders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from modelzoo.adapters.adapter import adapted, merge_adapters
from modelzoo.adapters.text import load_text_adapters
from modelzoo.checkpoints.folder import TRANSFORMERS_STEM, load_component, save_component
from modelzoo.denoiser import save_denoiser
from modelzoo.families import family
from modelzoo.text_encoders import load_text_encoders
from modelzoo.text_encoders.live import load_live_text
from modelzoo.text_encoders.text_encoder import PartEncoder
from stages.base_record import Record
from stages.export.adapters import adapted_text, count_trained, hold
from stages.export.proof import moved, prediction
from stages.generation import Generator, base_records, load_generator
from stages.trained import load_trained


class Merged(NamedTuple):
    """What was written."""

    denoiser: Path  # folder of the component
    text: dict[str, Path]  # folder of each text encoder that was trained, by its name
    difference: float  # largest of the prediction from that of base and adapters


def merge_into(folder: Path, trained: Path, base: Path, family_name: str, dtype: str) -> Merged:
    """Write the components that have adapters with these in their weights, in `folder`.

    Raises:
        ValueError: Nothing was trained, or the prediction is another.
    """
    records = base_records(base)
    generator = load_generator(family_name, trained, records, dtype)
    parts = adapted_text(generator, family_name)
    count_trained([generator.denoiser.network, *parts.values()])
    expected = prediction(generator)
    whole = load_trained(family_name, trained, records["denoiser"], torch.float32).denoiser
    merge_adapters(whole.network)
    whole.network.eval().requires_grad_(False).to(generator.device, generator.dtype)
    place = folder / family(family_name).folder
    save_denoiser(whole, place)
    found, text = dataclasses.replace(generator, denoiser=whole), {}
    if parts:
        sources = records["text_encoder"].folders
        live = load_live_text(family_name, sources, generator.tokenizer, torch.float32).encoders
        load_text_adapters(live, trained)
        text = {name: _merge_text(live[name], sources[name], folder / name) for name in parts}
        found = _with_text(found, moved(records["text_encoder"], text), family_name)
    difference = hold("merged", prediction(found), expected, generator.dtype)
    return Merged(place, text, difference)


def _merge_text(part: PartEncoder, source: Path, target: Path) -> Path:
    """Write a text encoder's folder with merged weights, all else as it was."""
    weights = {f"{name}.weight" for name in adapted(part)}
    merge_adapters(part)
    state, (config, tensors) = part.state_dict(), load_component(source)
    merged: dict[str, Tensor] = {}
    for name in tensors:
        own, old = part.own_name(name), tensors[name]
        merged[name] = state[own].to(old.dtype) if own in weights else old
    save_component(merged, config, target, TRANSFORMERS_STEM)
    return target


def _with_text(generator: Generator, record: Record, family_name: str) -> Generator:
    zero_empty = record.settings["zero_empty"]
    encoder = load_text_encoders(
        family_name, record.folders, generator.tokenizer, generator.dtype, zero_empty
    )
    return dataclasses.replace(generator, text_encoder=encoder.to(generator.device))
