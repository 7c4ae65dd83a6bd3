"""Export a ControlNet as a folder of its own, proven to steer the base as training left it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo.checkpoints.digest import component_digest
from modelzoo.controlnet import residuals_of
from modelzoo.controlnets import kind_of
from stages.export.bundle import write_weights
from stages.export.proof import CELLS, PROMPTS, TIMES, TOLERANCE, noisy_latents
from stages.generation import Generator, base_records, load_generator

PART = "controlnet"  # what its digest is called


@dataclass(frozen=True)
class Steered:
    """What a ControlNet does to a fixed batch."""

    residuals: Tensor  # all of them, flat
    change: float  # largest of the prediction


def export_controlnet(
    folder: Path, trained: Path, base: Path, family: str, dtype: str, upstream: Mapping[str, str]
) -> dict[str, Any]:
    """Write the folder that diffusers' ControlNet class loads, and return the proof.

    Args:
        folder: Where to; made here.
        trained: What training left.
        base: Holds the records of the base, of which the export holds nothing.
        family: `model.type`.
        dtype: Of the weights.
        upstream: What the weights came from; goes into the header of the weight files.

    Raises:
        ValueError: The export gives other residuals than what was trained, or none at all.
    """
    write_weights(folder, trained, upstream)
    records = base_records(base)
    exported, original = (
        _steered(load_generator(family, weights, records, dtype)) for weights in (folder, trained)
    )
    difference = float((exported.residuals - original.residuals).abs().max())
    if not difference <= TOLERANCE:  # NaN as well
        raise ValueError(
            f"the exported ControlNet gives other residuals than the trained one (by "
            f"{difference:.3g}, allowed {TOLERANCE}): nothing was exported; report this"
        )
    if exported.change == 0:
        raise ValueError(
            f"nothing was trained: the ControlNet in {trained} adds nothing to its base; check "
            "training.learning_rate and training.steps"
        )
    return {
        "format": "diffusers",
        "digests": {PART: component_digest(folder)},
        "largest_difference": {"residuals": difference},
        "largest_change_of_a_prediction": exported.change,
    }


@torch.inference_mode()
def _steered(generator: Generator) -> Steered:
    """Let a ControlNet follow a fixed picture of noise."""
    assert generator.controlnet is not None
    denoiser, device = generator.denoiser, generator.device
    noisy = noisy_latents(generator).to(generator.dtype)
    picture, side = noisy.flip(0), CELLS * generator.autoencoder.spatial_factor
    if kind_of(denoiser).sees_pixels:
        picture = torch.linspace(0, 1, 3 * side * side, device=device).view(1, 3, side, side)
        picture = picture.expand(len(noisy), -1, -1, -1)
    t = torch.tensor(TIMES, device=device)
    conditioning = denoiser.conditioning(generator.conditions(PROMPTS, side, side))
    added = residuals_of(generator.controlnet, denoiser, noisy, t, conditioning, picture)
    plain = denoiser.predict(noisy, t, conditioning)
    change = denoiser.predict(noisy, t, conditioning, added) - plain
    return Steered(torch.cat([each.float().flatten() for each in _flat(added)]), _largest(change))


def _flat(added: Mapping[str, Any]) -> list[Tensor]:
    """List the tensors, some of which stand alone and others in tuples."""
    groups = [each if isinstance(each, tuple) else (each,) for each in added.values()]
    return [tensor for group in groups for tensor in group]


def _largest(change: Tensor) -> float:
    return float(change.float().abs().max())
