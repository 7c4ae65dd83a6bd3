"""Prove an exported folder: every key is read, it predicts the same, and something was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo.checkpoints.digest import component_digest
from modelzoo.checkpoints.folder import load_component
from stages.artifacts import read_json
from stages.export.bundle import FROZEN
from stages.generation import Generator, component_folders, load_generator, starting_noise

TOLERANCE = 1e-6  # largest difference of a prediction or pixel between training's files and export
PROMPTS = ("", "a proof of the export")
TIMES = (0.25, 0.75)  # of the two noisy pictures
CELLS = 4  # latent cells along a side of the noisy pictures


def prove(exported: Path, transformer: Path, base: Path, family: str, dtype: str) -> dict[str, Any]:
    """Load the exported folder through its own format and compare it with what it was made from.

    Raises:
        ValueError: A key is missing or surplus, predictions differ, or no weight was changed by
            training.
    """
    changed, total = count_changed(
        exported / "transformer", Path(read_json(base / "transformer.json")["path"])
    )
    parts = ("transformer", *FROZEN)
    loaded = load_generator(family, {part: exported / part for part in parts}, dtype)
    original = load_generator(family, component_folders(transformer, base), dtype)
    differences = {
        name: float((one - other).abs().max())
        for (name, one), other in zip(
            _outputs(loaded).items(), _outputs(original).values(), strict=True
        )
    }
    for name, difference in differences.items():
        if not difference <= TOLERANCE:  # NaN as well
            raise ValueError(
                f"the exported folder gives another {name} than the trained weights (by "
                f"{difference:.3g}, allowed {TOLERANCE}): nothing was exported; report this"
            )
    return {
        "format": "diffusers",
        "digests": {part: component_digest(exported / part) for part in parts},
        "tensors": total,
        "tensors_changed_by_training": changed,
        "largest_difference": differences,
    }


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
def _outputs(generator: Generator) -> dict[str, Tensor]:
    """Give the prediction and the decoded pixels for a fixed batch."""
    shape = (generator.autoencoder.latent_channels, CELLS, CELLS)
    noise = torch.stack([starting_noise(0, index, shape) for index in range(len(PROMPTS))])
    noisy = noise.to(generator.device)
    t = torch.tensor(TIMES, device=generator.device)
    prediction = generator.predictor(generator.context(PROMPTS))(noisy, t)
    return {"prediction": prediction, "picture": generator.decode(noisy)}
