"""Write adapters in the forms that other programs load, each proven by reading it again."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelzoo.adapters.adapter import adapted, config_of
from modelzoo.adapters.attach import attach
from modelzoo.adapters.files import load_adapters
from modelzoo.adapters.found import CONFIG, DIFFUSERS_WEIGHTS, WEIGHTS, text_folders
from modelzoo.adapters.pairs import pairs_of, read_pairs, to_diffusers, to_kohya
from modelzoo.adapters.text import load_text_adapters
from modelzoo.adapters.text_pairs import read_text_pairs
from modelzoo.checkpoints.stream import MemorySource
from modelzoo.checkpoints.write import write_safetensors
from modelzoo.denoiser import load_denoiser
from modelzoo.families import family
from modelzoo.text_encoders.live import learning_parts
from modelzoo.text_encoders.text_encoder import PartEncoder
from stages.artifacts import sha256_file
from stages.base_record import Record
from stages.export.bundle import copy_with_metadata, header_of
from stages.export.proof import prediction
from stages.generation import Generator, base_records, load_generator

COMFYUI_WEIGHTS = "comfyui_lora.safetensors"  # the names of kohya's scripts
FILES = {"diffusers": DIFFUSERS_WEIGHTS, "comfyui": COMFYUI_WEIGHTS, "peft": WEIGHTS}
# of the largest value of the prediction: forms differ in the order in which numbers are multiplied
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def forms_of(network: Any, asked: Sequence[str] | None) -> list[str]:
    """Give the forms to write: those asked for, or all that can hold these adapters."""
    if asked is not None:
        return list(asked)
    config = config_of(network)
    if config.peft_type.value != "LORA":
        return ["peft"]
    return ["diffusers"] if config.use_dora else ["diffusers", "comfyui"]


def export_adapters(
    folder: Path,
    trained: Path,
    base: Path,
    family_name: str,
    dtype: str,
    forms: Sequence[str] | None,
    upstream: Mapping[str, str],
) -> dict[str, Any]:
    """Write the files into `folder`, made here, and return their proof.

    Raises:
        ValueError: A form cannot hold the adapters, a file does not give the same prediction in a
            fresh base, or nothing was trained.
    """
    folder.mkdir(parents=True)
    records = base_records(base)
    generator = load_generator(family_name, trained, records, dtype)
    networks = [generator.denoiser.network, *adapted_text(generator, family_name).values()]
    changed = count_trained(networks)
    expected, differences = prediction(generator), {}
    for form in forms_of(generator.denoiser.network, forms):
        _write(folder, form, generator, trained, family_name, upstream)
        fresh = _read(folder / FILES[form], form, records, family_name, generator)
        differences[form] = hold(form, prediction(fresh), expected, generator.dtype)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "format": "adapters",
        "digests": {path.relative_to(folder).as_posix(): sha256_file(path) for path in files},
        "adapters": sum(len(adapted(network)) for network in networks),
        "adapters_changed_by_training": changed,
        "largest_difference": differences,
    }


def adapted_text(generator: Generator, family_name: str) -> dict[str, PartEncoder]:
    """Give the text encoders that have adapters, by folder."""
    parts = learning_parts(family_name, generator.text_encoder)
    return {folder: part for folder, part in parts.items() if adapted(part)}


def count_trained(networks: Sequence[nn.Module]) -> int:
    """Count the layers in which adapters change anything.

    Raises:
        ValueError: There are none.
    """
    layers = [layer for network in networks for layer in adapted(network).values()]
    with torch.no_grad():
        changed = sum(bool(layer.get_delta_weight("default").any()) for layer in layers)
    if changed == 0:
        raise ValueError(
            f"nothing was trained: all {len(layers)} adapters change nothing; check "
            "training.learning_rate and training.steps"
        )
    return changed


def _write(
    folder: Path,
    form: str,
    generator: Generator,
    trained: Path,
    family_name: str,
    upstream: Mapping[str, str],
) -> None:
    header = header_of(upstream)
    if form == "peft":
        for own in (trained, *text_folders(trained)):
            target = folder / own.relative_to(trained)
            target.mkdir(exist_ok=True)
            copy_with_metadata(own / WEIGHTS, target / WEIGHTS, header)
            shutil.copy(own / CONFIG, target / CONFIG)
        return
    network, parts = generator.denoiser.network, adapted_text(generator, family_name)
    pairs, text = pairs_of(network), {name: pairs_of(part) for name, part in parts.items()}
    if form == "comfyui":
        tensors = to_kohya(pairs, network, family_name, text)
    else:
        tensors = to_diffusers(pairs, family(family_name).folder)
        for name, of_part in text.items():
            tensors |= to_diffusers(of_part, name)
    source = MemorySource(
        {name: t.contiguous() for name, t in tensors.items()}, str(folder), "LoRA"
    )
    write_safetensors(source, folder / FILES[form], header)


def _read(
    file: Path, form: str, records: Mapping[str, Record], family_name: str, generator: Generator
) -> Generator:
    """Put a written file into a fresh base, every key used."""
    folder = records["denoiser"].folders[family(family_name).folder]
    has_text = bool(adapted_text(generator, family_name))
    if has_text:
        fresh = load_generator(family_name, folder, records, str(generator.dtype).split(".")[1])
        parts = learning_parts(family_name, fresh.text_encoder)
    else:
        denoiser = load_denoiser(family(family_name).denoiser, folder, generator.dtype)
        fresh, parts = dataclasses.replace(generator, denoiser=denoiser), {}
    network = fresh.denoiser.network
    if form == "peft":
        load_adapters(network, file.parent)
        load_text_adapters(parts, file.parent)
    else:
        attach(network, read_pairs(file, network, family_name, has_text))
        for name, pairs in read_text_pairs(file, parts, family_name).items():
            attach(parts[name], pairs)
    for module in (network, *parts.values()):
        module.eval().requires_grad_(False).to(generator.device)
    return fresh


def hold(form: str, found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> float:
    """Return by how much a form's prediction differs from the expected one, (B, C, h, w) each.

    Raises:
        ValueError: By more than `TOLERANCES` allows for the dtype of the base.
    """
    difference = float((found - expected).abs().max())
    allowed = TOLERANCES[dtype] * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:  # NaN as well
        raise ValueError(
            f"the form {form!r} gives another prediction than the trained adapters (by "
            f"{difference:.3g}, allowed {allowed:.3g}): nothing was exported; report this"
        )
    return difference
