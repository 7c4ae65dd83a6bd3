"""Write adapters in the forms that other programs load, each proven by reading it again."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modelzoo.adapters.adapter import adapted, config_of, merge_adapters
from modelzoo.adapters.attach import attach
from modelzoo.adapters.files import load_adapters
from modelzoo.adapters.found import CONFIG, DIFFUSERS_WEIGHTS, WEIGHTS
from modelzoo.adapters.pairs import pairs_of, read_pairs, to_diffusers, to_kohya
from modelzoo.checkpoints.stream import MemorySource
from modelzoo.checkpoints.write import write_safetensors
from modelzoo.denoiser import Denoiser, load_denoiser, save_denoiser
from modelzoo.families import family
from stages.artifacts import sha256_file
from stages.base_record import Record
from stages.export.bundle import copy_with_metadata, header_of
from stages.export.proof import prediction
from stages.generation import Generator, base_records, load_generator
from stages.trained import load_trained

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
    changed = count_trained(generator.denoiser.network)
    expected, differences = prediction(generator), {}
    for form in forms_of(generator.denoiser.network, forms):
        _write(folder, form, generator.denoiser, trained, family_name, upstream)
        fresh = _read(folder / FILES[form], form, records["denoiser"], family_name, generator)
        differences[form] = hold(form, prediction(fresh), expected, generator.dtype)
    return {
        "format": "adapters",
        "digests": {path.name: sha256_file(path) for path in sorted(folder.iterdir())},
        "adapters": len(adapted(generator.denoiser.network)),
        "adapters_changed_by_training": changed,
        "largest_difference": differences,
    }


def merge_into(folder: Path, trained: Path, base: Path, family_name: str, dtype: str) -> float:
    """Write the base with the adapters in its weights as a component's folder.

    Returns the largest difference of its prediction from that of base and adapters.

    Raises:
        ValueError: Nothing was trained, or the prediction is another.
    """
    records = base_records(base)
    generator = load_generator(family_name, trained, records, dtype)
    count_trained(generator.denoiser.network)
    expected = prediction(generator)
    merged = load_trained(family_name, trained, records["denoiser"], torch.float32).denoiser
    merge_adapters(merged.network)
    merged.network.to(generator.dtype)
    save_denoiser(merged, folder)
    found = prediction(_with(generator, merged))
    return hold("merged", found, expected, generator.dtype)


def count_trained(network: Any) -> int:
    """Count the layers in which adapters change anything.

    Raises:
        ValueError: There are none.
    """
    layers = adapted(network).values()
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
    denoiser: Denoiser,
    trained: Path,
    family_name: str,
    upstream: Mapping[str, str],
) -> None:
    header = header_of(upstream)
    if form == "peft":
        copy_with_metadata(trained / WEIGHTS, folder / WEIGHTS, header)
        shutil.copy(trained / CONFIG, folder / CONFIG)
        return
    network = denoiser.network
    pairs = pairs_of(network)
    if form == "comfyui":
        tensors = to_kohya(pairs, network, family_name)
    else:
        tensors = to_diffusers(pairs, family(family_name).folder)
    source = MemorySource(
        {name: t.contiguous() for name, t in tensors.items()}, str(folder), "LoRA"
    )
    write_safetensors(source, folder / FILES[form], header)


def _read(file: Path, form: str, base: Record, family_name: str, generator: Generator) -> Generator:
    """Put a written file into a fresh base, every key used."""
    kind = family(family_name)
    fresh = load_denoiser(kind.denoiser, base.folders[kind.folder], generator.dtype)
    if form == "peft":
        load_adapters(fresh.network, file.parent)
    else:
        attach(fresh.network, read_pairs(file, fresh.network, family_name))
    return _with(generator, fresh)


def _with(generator: Generator, denoiser: Denoiser) -> Generator:
    denoiser.network.eval().requires_grad_(False).to(generator.device)
    return dataclasses.replace(generator, denoiser=denoiser)


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
