"""The pictures that a batch follows, and which of its visits go without."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.randomness import generator
from stages.train.batches import Batch


def followed(batch: Batch, dropout: float, seed: int, factor: int = 1) -> Tensor:
    """Return the condition pictures (B, C, H, W), zeros for the visits that go without.

    Args:
        batch: With conditions.
        dropout: Share of visits that go without, drawn by seed, sample and visit.
        seed: `experiment.seed`.
        factor: Cells of a condition along a side of a cell of its target.

    Raises:
        ValueError: The batch has no condition pictures, or such of another size.
    """
    if batch.condition is None:
        raise ValueError(
            f"training.method is 'controlnet', but sample {batch.names[0]!r} has no condition "
            "picture: run `dvc repro`, which makes and encodes them"
        )
    height, width = batch.latents.shape[-2:]
    wanted, found = (factor * height, factor * width), tuple(batch.condition.shape[-2:])
    if found != wanted:
        raise ValueError(
            f"the condition picture of sample {batch.names[0]!r} is {found[1]}x{found[0]} "
            f"cells, but its target needs {wanted[1]}x{wanted[0]}: give pictures of the "
            "target's aspect ratio (of SDXL, embedding_channels that fit the autoencoder)"
        )
    return batch.condition * _kept(batch, dropout, seed).view(-1, 1, 1, 1)


def _kept(batch: Batch, dropout: float, seed: int) -> Tensor:
    """Say by 1 or 0 which items keep their picture; in validation all do."""
    visits = zip(batch.names, batch.visits, strict=True) if dropout and batch.visits else ()
    drawn = [generator(seed, *visit, "condition").random() < dropout for visit in visits]
    kept = [0.0 if dropped else 1.0 for dropped in drawn] or [1.0] * len(batch)
    return torch.tensor(kept, device=batch.latents.device)
