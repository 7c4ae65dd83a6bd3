"""What the pipeline asks of an autoencoder, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Autoencoder(nn.Module, ABC):
    """Pictures to rows of the store, rows to the denoiser's latents, latents to pictures."""

    CONVENTION: str  # version of what a row means; part of a row's key
    latent_channels: int  # channels of the denoiser's space
    spatial_factor: int  # pixels along a side of a latent cell

    @abstractmethod
    def encode_rows(self, pixels: Tensor) -> dict[str, Tensor]:
        """Encode pictures (B, 3, H, W) in [-1, 1] as what a row holds; each is (B, C, h, w)."""

    @abstractmethod
    def latents(self, rows: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Make latents (B, C, h, w) of rows: the mean, or with noise (B, C, h, w) a draw."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to pictures (B, 3, H, W), about in [-1, 1]."""
