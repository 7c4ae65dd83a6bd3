"""FLUX.2's autoencoder: KL, with 2 x 2 patches normalised by stored batch-norm statistics."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from modelzoo.autoencoders.autoencoder import Autoencoder
from modelzoo.autoencoders.config import AutoencoderKLFlux2Config


class AutoencoderKLFlux2(Autoencoder):
    """Encode to the normalised mean of the posterior: FLUX.2 never draws from it."""

    CONVENTION = "flux2-mean-patch2-bn-1"

    def __init__(self, config: AutoencoderKLFlux2Config) -> None:
        super().__init__(config)
        self.latent_channels = math.prod(config.patch_size) * config.latent_channels
        self.spatial_factor = config.patch_size[0] * 2 ** (len(config.block_out_channels) - 1)
        self.bn = LatentStatistics(self.latent_channels, config.batch_norm_eps)

    @torch.no_grad()
    def encode_rows(self, pixels: Tensor) -> dict[str, Tensor]:
        """Encode pictures (B, 3, H, W) in [-1, 1] as their normalised mean (B, 4 Z, h, w)."""
        return {"mean": (self.raw_latents(pixels) - self.bn.mean) / self.bn.std}

    def latents(self, rows: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Give the rows' mean (B, 4 Z, h, w), noise or not: FLUX.2 never draws."""
        return rows["mean"]

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (B, 4 Z, h, w) to pictures (B, 3, H, W), about in [-1, 1]."""
        return self.decode_raw(unpatchify(latents * self.bn.std + self.bn.mean))

    def raw_latents(self, pixels: Tensor) -> Tensor:
        """Encode pictures as patches (B, 4 Z, h, w), to measure the statistics to normalise by."""
        return patchify(self.encode_moments(pixels)[0])

    def set_latent_statistics(self, mean: Tensor, var: Tensor) -> None:
        """Store what latents are normalised by: mean and variance (4 Z,) of raw latents."""
        self.bn.running_mean.copy_(mean)
        self.bn.running_var.copy_(var)

    def set_scalar_normalisation(self, scaling_factor: float, shift_factor: float = 0.0) -> None:
        """Normalise by (z - shift_factor) * scaling_factor, written as statistics."""
        ones = torch.ones(self.latent_channels)
        var = scaling_factor**-2 - self.config.batch_norm_eps
        self.set_latent_statistics(shift_factor * ones, var * ones)


class LatentStatistics(nn.Module):
    """What latents are normalised by, kept as a batch norm's buffers that no batch updates."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    @property
    def mean(self) -> Tensor:
        """The mean of each channel (C, 1, 1)."""
        return self.running_mean[:, None, None]

    @property
    def std(self) -> Tensor:
        """The standard deviation of each channel (C, 1, 1)."""
        return (self.running_var + self.eps).sqrt()[:, None, None]


def patchify(z: Tensor) -> Tensor:
    """Move 2 x 2 neighbours into channels: (B, Z, 2 h, 2 w) to (B, 4 Z, h, w)."""
    return rearrange(z, "b c (h i) (w j) -> b (c i j) h w", i=2, j=2)


def unpatchify(patches: Tensor) -> Tensor:
    """Undo `patchify`: (B, 4 Z, h, w) to (B, Z, 2 h, 2 w)."""
    return rearrange(patches, "b (c i j) h w -> b c (h i) (w j)", i=2, j=2)
