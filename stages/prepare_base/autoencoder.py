"""Train a small VAE from scratch (Kingma and Welling 2014; weights of the terms: Rombach 2022)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from modelzoo.autoencoders import Autoencoder
from stages.dataset.files import read_bytes
from stages.pixels import UnreadableImageError, open_rgb

KL_WEIGHT = 1e-4  # keeps latents bounded without blurring pictures
L1_WEIGHT = 0.3  # sharpens strokes
WARMUP_FRACTION = 0.1  # of all steps
MEASURED = 64  # pictures encoded at once for the statistics


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    steps: int
    batch_size: int  # pictures a step
    learning_rate: float  # the highest
    seed: int

    def rate(self, step: int) -> float:
        """Give the learning rate of a step: linear warm-up, then a cosine to zero."""
        warm = min(1.0, (step + 1) / max(1.0, WARMUP_FRACTION * self.steps))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def read_pictures(root: Path, paths: Sequence[str], factor: int) -> list[Tensor]:
    """Read pictures of the dataset `root` as uint8 (N, 3, H, W), one tensor a size.

    They are cut to multiples of `factor`.
    """
    by_size: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for path in paths:
        pixels = np.asarray(_open(root, path))
        height, width = (side // factor * factor for side in pixels.shape[:2])
        if not height or not width:
            raise ValueError(
                f"{root / path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, smaller than the "
                f"{factor} that one latent cell covers: remove it"
            )
        picture = torch.from_numpy(pixels[:height, :width].copy()).permute(2, 0, 1)
        by_size[height, width].append(picture)
    return [torch.stack(by_size[size]) for size in sorted(by_size)]


def _open(root: Path, path: str) -> Image.Image:
    try:
        return open_rgb(read_bytes(root, path)).image
    except UnreadableImageError as error:
        raise ValueError(f"{root / path} cannot be used: {error}; mend or remove it") from None


def fit_autoencoder(
    autoencoder: Autoencoder, pictures: Sequence[Tensor], schedule: Schedule
) -> None:
    """Train on batches of one size each, then store the statistics of the latents."""
    generator = torch.Generator().manual_seed(schedule.seed)
    optimizer = torch.optim.AdamW(autoencoder.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    counts = torch.tensor([float(len(group)) for group in pictures])
    autoencoder.train()
    for step in tqdm(range(schedule.steps), desc="autoencoder", unit="step", mininterval=1.0):
        group = pictures[int(torch.multinomial(counts, 1, generator=generator))]
        chosen = torch.randint(len(group), (schedule.batch_size,), generator=generator)
        loss = reconstruction_loss(autoencoder, to_pixels(group[chosen]), generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        for settings in optimizer.param_groups:
            settings["lr"] = schedule.rate(step)
        optimizer.step()
        optimizer.zero_grad()
    autoencoder.eval()
    measure_latents(autoencoder, pictures)


def reconstruction_loss(
    autoencoder: Autoencoder, pixels: Tensor, generator: torch.Generator
) -> Tensor:
    """Error of pictures (B, 3, H, W), plus the divergence of latents from a unit normal."""
    noise = torch.randn(autoencoder.posterior_shape(pixels), generator=generator)
    out = autoencoder(pixels, noise)
    divergence = 0.5 * (out.mean**2 + out.logvar.exp() - 1 - out.logvar).mean()
    error = F.mse_loss(out.pixels, pixels) + L1_WEIGHT * F.l1_loss(out.pixels, pixels)
    return error + KL_WEIGHT * divergence


@torch.no_grad()
def measure_latents(autoencoder: Autoencoder, pictures: Sequence[Tensor]) -> None:
    """Normalise latents by the mean and variance of each channel over all pictures."""
    cells = [
        autoencoder.raw_latents(to_pixels(part)).transpose(0, 1).flatten(1)
        for group in pictures
        for part in group.split(MEASURED)
    ]
    channels = torch.cat(cells, dim=1)
    autoencoder.set_latent_statistics(channels.mean(1), channels.var(1))


def to_pixels(pictures: Tensor) -> Tensor:
    """Map uint8 to [-1, 1]."""
    return pictures.float() / 127.5 - 1
