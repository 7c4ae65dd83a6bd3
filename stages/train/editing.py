"""What the pictures of a batch tell the denoiser, by the editing mode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from modelzoo.autoencoders import Autoencoder, load_autoencoder
from modelzoo.denoiser import Denoiser
from modelzoo.flux.components.conditions import fill_condition
from modelzoo.flux.components.editing import fill_columns, kept_channels, widened_for_fill
from stages.base_record import read_record
from stages.params.training import Training
from stages.train.batches import Batch
from stages.train.random_masks import random_mask


class Editing(Protocol):
    """How a batch's pictures join what the denoiser is told; any method may train with it."""

    @property
    def time_offset(self) -> float | None:
        """Give where references stand along t, for sampling: None is the family's own place."""
        ...

    def add(self, denoiser: Denoiser, conditioning: Any, batch: Batch) -> Any:
        """Add the pictures to the conditioning that the captions gave.

        Raises:
            ValueError: The batch has no such pictures, or the denoiser cannot see them.
        """
        ...


@dataclass(frozen=True)
class Kontext:
    """References are tokens beside the target's (Black Forest Labs 2025, section 3).

    They are clean whatever t is, and nothing of the loss is theirs: the network's output covers
    the target's tokens alone.
    """

    time_offset: float | None  # from one to the next along t; None: the family's own

    def add(self, denoiser: Denoiser, conditioning: Any, batch: Batch) -> Any:
        """Add all references of the items."""
        if not batch.references:
            raise ValueError(
                f"training.editing is 'kontext', but sample {batch.names[0]!r} has no reference: "
                "name them in data.references and run `dvc repro`"
            )
        return denoiser.with_pictures(conditioning, batch.references, time_offset=self.time_offset)


@dataclass(frozen=True)
class Fill:
    """What a mask leaves of the target, and the mask, are channels of the target's tokens.

    The loss covers the whole picture, so that the kept part is painted as it was.
    """

    time_offset: ClassVar[None] = None

    def add(self, denoiser: Denoiser, conditioning: Any, batch: Batch) -> Any:
        """Add the masks that came with the items."""
        if batch.mask is None or batch.masked is None:
            raise ValueError(
                f"training.editing is 'fill', but sample {batch.names[0]!r} has no mask: name them "
                "in data.mask and run `dvc repro`, or set training.fill.masks to 'random'"
            )
        return denoiser.with_pictures(conditioning, fill=fill_condition(batch.masked, batch.mask))


@dataclass(frozen=True)
class RandomFill:
    """As Fill, with boxes and strokes that belong to the visit.

    The autoencoder encodes what such a mask leaves, as it does when pictures are made: latents cut
    by the mask would still show, beyond its edge, what was under it. What it encodes is its own
    copy of the target, decoded from the cached latents.
    """

    autoencoder: Autoencoder
    seed: int
    time_offset: ClassVar[None] = None

    @torch.no_grad()
    def add(self, denoiser: Denoiser, conditioning: Any, batch: Batch) -> Any:
        """Draw masks, and encode what they leave of the items."""
        latents = batch.latents
        height, width = (self.autoencoder.spatial_factor * side for side in latents.shape[-2:])
        masks = [random_mask(height, width, *purpose) for purpose in self._purposes(batch)]
        dtype = next(self.autoencoder.parameters()).dtype
        pixels = self.autoencoder.decode(latents.to(dtype)).float().clamp(-1, 1)
        mask = torch.stack(masks).to(latents.device)
        fill = kept_channels(pixels, mask, self.autoencoder, latents.device)
        return denoiser.with_pictures(conditioning, fill=fill)

    def _purposes(self, batch: Batch) -> list[tuple[str | int, ...]]:
        """Say what each item's mask is for: a visit, or the validation, which is always alike."""
        if not batch.visits:
            return [("validation", name) for name in batch.names]
        visits = zip(batch.names, batch.visits, strict=True)
        return [(self.seed, name, visit) for name, visit in visits]


def editing_of(
    settings: Training, seed: int, vae: Path, dtype: torch.dtype, device: torch.device
) -> Editing | None:
    """Return the mode of `training.editing`; None where pictures are made of captions alone."""
    if settings.editing is None:
        return None
    if settings.editing == "kontext":
        return Kontext(None if settings.kontext is None else settings.kontext.time_offset)
    if not settings.draws_masks:
        return Fill()
    autoencoder = load_autoencoder(read_record(vae).folders["vae"], dtype).to(device)
    return RandomFill(autoencoder.eval().requires_grad_(False), seed)


def fitting(denoiser: Denoiser, settings: Training, cell: int) -> Denoiser:
    """Return the base, or for `training.editing: fill` a base made a Fill model.

    Args:
        denoiser: The base; its weights are shared.
        settings: The section `training`.
        cell: Pixels along a side of a latent cell.

    Raises:
        ValueError: The base and the mode do not fit.
    """
    found = getattr(denoiser.config, "fill_channels", 0)
    if settings.editing != "fill":
        if found:
            raise ValueError(
                f"params.yaml: training.editing: {settings.editing!r} given, but the base takes "
                f"{found} channels beside the noise: set 'fill', or take another base"
            )
        return denoiser
    if not found and settings.method != "full_finetune":
        raise ValueError(
            f"params.yaml: training.editing: 'fill' with training.method {settings.method!r} needs "
            "a base that fills, since the widened x_embedder must learn: take such a base, or "
            "training.method 'full_finetune'"
        )
    needed = fill_columns(denoiser, cell)
    if found not in (0, needed):
        raise ValueError(
            f"params.yaml: training.editing: 'fill' needs {needed} channels beside the noise, but "
            f"the base takes {found}: take a Fill model, or a base without further channels"
        )
    return denoiser if found else widened_for_fill(denoiser, cell)
