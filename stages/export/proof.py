"""Prove an exported folder: every key is read, it predicts the same, and something was learnt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo.checkpoints.digest import component_digest
from modelzoo.checkpoints.folder import load_component
from stages.base_record import Record, read_record
from stages.control import NO_CONTROL, Control
from stages.export.bundle import NO_TEXT, frozen_parts
from stages.generation import Generator, base_records, load_generator, starting_noise
from stages.prompt_pictures import NOTHING_SEEN, Seen, all_filled

TOLERANCE = 1e-6  # largest difference of a prediction or pixel between training's files and export
PROMPTS = ("", "a proof of the export")
TIMES = (0.25, 0.75)  # of the two noisy pictures
CELLS = 4  # latent cells along a side of the noisy pictures


def prove(
    exported: Path,
    denoiser: Path,
    base: Path,
    family: str,
    dtype: str,
    text: Mapping[str, Path] = NO_TEXT,
) -> dict[str, Any]:
    """Load the exported folder through its own format and compare it with what it was made from.

    `text` has the text encoders that are not the base's, by their names.

    Raises:
        ValueError: A key is missing or surplus, predictions differ, or no weight was changed by
            training.
    """
    ((name, untrained),) = read_record(base / "denoiser.json").folders.items()
    changed, total = count_changed(exported / name, untrained)
    records = base_records(base)
    copies = {
        component: record
        if component == "denoiser"
        else moved(record, {name: exported / name for name in record.parts})
        for component, record in records.items()
    }
    records["text_encoder"] = moved(records["text_encoder"], text)
    loaded = load_generator(family, exported / name, copies, dtype)
    original = load_generator(family, denoiser, records, dtype)
    differences = {
        output: float((one - other).abs().max())
        for (output, one), other in zip(
            _outputs(loaded).items(), _outputs(original).values(), strict=True
        )
    }
    for output, difference in differences.items():
        if not difference <= TOLERANCE:  # NaN as well
            raise ValueError(
                f"the exported folder gives another {output} than the trained weights (by "
                f"{difference:.3g}, allowed {TOLERANCE}): nothing was exported; report this"
            )
    return {
        "format": "diffusers",
        "digests": {
            part: component_digest(exported / part) for part in (name, *frozen_parts(base))
        },
        "tensors": total,
        "tensors_changed_by_training": changed,
        "largest_difference": differences,
    }


def moved(record: Record, folders: Mapping[str, Path]) -> Record:
    """Return the record with other folders of some of its parts."""
    parts = {
        name: dataclasses.replace(part, path=folders.get(name, part.path))
        for name, part in record.parts.items()
    }
    return dataclasses.replace(record, parts=parts)


def count_changed(trained: Path, base: Path) -> tuple[int, int]:
    """Count the tensors that training changed, and all of them.

    Raises:
        ValueError: Training changed none.
    """
    _, new = load_component(trained)
    _, old = load_component(base)
    changed = sum(
        name not in old or not torch.equal(tensor, old[name].to(tensor.dtype))
        for name, tensor in new.items()
    )
    if changed == 0:
        raise ValueError(
            f"nothing was trained: all {len(new)} tensors equal those of the base in {base}; check "
            "training.learning_rate and training.steps"
        )
    return changed, len(new)


@torch.inference_mode()
def prediction(generator: Generator, control: Control = NO_CONTROL) -> Tensor:
    """Give the prediction for a fixed batch of prompts, noise and times."""
    t = torch.tensor(TIMES, device=generator.device)
    side = CELLS * generator.autoencoder.spatial_factor
    conditions = generator.conditions(PROMPTS, side, side)
    seen = _seen(generator, side) if control is NO_CONTROL else NOTHING_SEEN
    return generator.predictor(conditions, seen=seen, control=control)(noisy_latents(generator), t)


@torch.inference_mode()
def _outputs(generator: Generator) -> dict[str, Tensor]:
    """Give the prediction and the decoded pixels for a fixed batch."""
    picture = generator.decode(noisy_latents(generator))
    return {"prediction": prediction(generator), "picture": picture}


def noisy_latents(generator: Generator) -> Tensor:
    """Give the noise of a fixed batch, (B, C, h, w) in float32."""
    shape = (generator.autoencoder.latent_channels, CELLS, CELLS)
    noise = torch.stack([starting_noise(0, index, shape) for index in range(len(PROMPTS))])
    return noise.to(generator.device)


def _seen(generator: Generator, side: int) -> Seen:
    """Give a Fill model the picture that it cannot do without."""
    if not getattr(generator.denoiser.config, "fill_channels", 0):
        return NOTHING_SEEN
    return all_filled(generator.autoencoder, len(PROMPTS), side, side)
