"""Export a Control-LoRA as the file that diffusers loads, proven in a fresh base."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modelzoo.adapters.adapter import adapted
from modelzoo.adapters.attach import attach
from modelzoo.adapters.found import DIFFUSERS_WEIGHTS
from modelzoo.adapters.pairs import pairs_of, read_pairs, to_diffusers
from modelzoo.checkpoints.stream import MemorySource, SafetensorsFile
from modelzoo.checkpoints.write import write_safetensors
from modelzoo.control_lora import fill_norms, norms
from modelzoo.denoiser import Denoiser
from modelzoo.families import family
from modelzoo.flux.components.editing import widened_for_control
from stages.artifacts import sha256_file
from stages.control import Control
from stages.export.adapters import count_trained, hold
from stages.export.bundle import header_of
from stages.export.proof import noisy_latents, prediction
from stages.generation import Generator, base_records, load_generator, uncontrolled

FORM = "diffusers"


def export_control_lora(
    folder: Path,
    trained: Path,
    base: Path,
    family_name: str,
    dtype: str,
    upstream: Mapping[str, str],
) -> dict[str, Any]:
    """Write the file that `FluxControlPipeline.load_lora_weights` reads, and return its proof.

    It holds the adapters, that of the widened `x_embedder` among them, and the norms of queries
    and keys; the columns that widen it are zero in whatever reads them.

    Args:
        folder: Where to; made here.
        trained: What training left.
        base: Holds the records of the base, of which the export holds nothing.
        family_name: `model.type`.
        dtype: Of the base.
        upstream: What the weights came from; goes into the header of the file.

    Raises:
        ValueError: The file gives another prediction in a fresh base, or the picture that is
            followed changes none.
    """
    folder.mkdir(parents=True)
    file, component = folder / DIFFUSERS_WEIGHTS, family(family_name).folder
    records = base_records(base)
    generator = load_generator(family_name, trained, records, dtype)
    network = generator.denoiser.network
    changed = count_trained([network])
    change = _change_by_picture(generator)
    if change == 0:
        raise ValueError(
            "nothing was trained: the picture that is followed changes no prediction; check "
            "training.learning_rate and training.steps"
        )
    _write(file, network, component, header_of(upstream))
    fresh = uncontrolled(generator, family_name, records)
    fresh = dataclasses.replace(fresh, denoiser=_read(file, fresh.denoiser, family_name, component))
    difference = hold(FORM, _followed(fresh), _followed(generator), generator.dtype)
    return {
        "format": "control_lora",
        "digests": {file.name: sha256_file(file)},
        "adapters": len(adapted(network)),
        "adapters_changed_by_training": changed,
        "largest_difference": {FORM: difference},
        "largest_change_of_a_prediction": change,
    }


def _write(file: Path, network: Any, component: str, header: Mapping[str, str]) -> None:
    tensors = to_diffusers(pairs_of(network), component)
    tensors |= {f"{component}.{name}": scale.detach() for name, scale in norms(network).items()}
    source = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_safetensors(MemorySource(source, str(file), "LoRA"), file, header)


def _read(file: Path, base: Denoiser, family_name: str, component: str) -> Denoiser:
    """Let a fresh base compute with what a file holds, every key used."""
    denoiser = widened_for_control(base)
    network, source = denoiser.network, SafetensorsFile(file, "LoRA")
    named = {f"{component}.{name}": name for name in norms(network)}
    fill_norms(network, {own: source[name] for name, own in named.items()}, str(file))
    attach(network, read_pairs(file, network, family_name, beside=named))
    return denoiser


def _followed(generator: Generator, strength: float = 1.0) -> Tensor:
    """Predict a fixed batch that follows a picture of noise, times `strength`."""
    picture = strength * noisy_latents(generator).flip(0)
    return prediction(generator, Control(picture=picture))


def _change_by_picture(generator: Generator) -> float:
    """Give the largest change of a prediction by the picture, beside one of zeros."""
    change = _followed(generator) - _followed(generator, strength=0.0)
    return float(change.abs().max())
