"""The autoencoder of SDXL, FLUX.1 and SD3.5: KL, normalised by one scale and one shift."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from modelzoo.autoencoders.autoencoder import Autoencoder
from modelzoo.autoencoders.config import AutoencoderKLConfig


class AutoencoderKL(Autoencoder):
    """Encode to the posterior of z, normalised as latents = (z - shift) * scale.

    Scale and shift are `scaling_factor` and `shift_factor` of the configuration: SDXL 0.13025 and
    none (Podell et al. 2023), FLUX.1 0.3611 and 0.1159, SD3.5 1.5305 and 0.0609.
    """

    CONVENTION = "kl-posterior-scaled-1"

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__(config)
        self.latent_channels = config.latent_channels
        self.spatial_factor = 2 ** (len(config.block_out_channels) - 1)

    @property
    def shift(self) -> float:
        """What is subtracted from z."""
        return self.config.shift_factor or 0.0

    @torch.no_grad()
    def encode_rows(self, pixels: Tensor) -> dict[str, Tensor]:
        """Encode pictures (B, 3, H, W) in [-1, 1] as the mean and log variance of latents."""
        mean, logvar = self.encode_moments(pixels)
        scale = self.config.scaling_factor
        return {"mean": (mean - self.shift) * scale, "logvar": logvar + 2 * math.log(scale)}

    def latents(self, rows: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Make latents (B, C, h, w) of rows: the mean, or with noise (B, C, h, w) a draw."""
        if noise is None:
            return rows["mean"]
        return torch.addcmul(rows["mean"], (0.5 * rows["logvar"]).exp(), noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to pictures (B, 3, H, W), about in [-1, 1]."""
        return self.decode_raw(latents / self.config.scaling_factor + self.shift)

    def raw_latents(self, pixels: Tensor) -> Tensor:
        """Encode pictures as means (B, C, h, w) not yet normalised, to measure statistics of."""
        return self.encode_moments(pixels)[0]

    def set_latent_statistics(self, mean: Tensor, var: Tensor) -> None:
        """Normalise all channels (C,) together to unit variance, and shift if the family shifts."""
        total = var.mean() + mean.var(unbiased=False)  # within channels, and between them
        self.set_scalar_normalisation(total.rsqrt().item(), mean.mean().item())

    def set_scalar_normalisation(self, scaling_factor: float, shift_factor: float = 0.0) -> None:
        """Normalise by (z - shift_factor) * scaling_factor; without shift if the family has none.

        Pipelines of a family that does not shift ignore a shift, so none is written for it.
        """
        shift = None if self.config.shift_factor is None else shift_factor
        self.config = replace(self.config, scaling_factor=scaling_factor, shift_factor=shift)
