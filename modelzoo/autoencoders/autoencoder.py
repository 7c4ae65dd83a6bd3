"""What the pipeline asks of an autoencoder, and the encoder and decoder that all of them have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from modelzoo.autoencoders.config import AutoencoderConfig
from modelzoo.autoencoders.kl import Decoder, Encoder, Shape


class Reconstruction(NamedTuple):
    """What training an autoencoder looks at."""

    pixels: Tensor  # (B, 3, H, W)
    mean: Tensor  # (B, Z, H / factor, W / factor) of the posterior, not normalised
    logvar: Tensor  # as the mean


class Autoencoder(nn.Module, ABC):
    """Pictures to rows of the store, rows to the denoiser's latents, latents to pictures.

    The encoder gives a Gaussian for each picture, its posterior (Kingma and Welling 2014), of Z
    channels. Rows and latents (B, C, h, w) are in the denoiser's space, where they are normalised
    and, for FLUX.2, patched.
    """

    CONVENTION: str  # version of what a row means; part of a row's key
    config: Any  # the family's AutoencoderConfig
    latent_channels: int  # channels C of the denoiser's space
    spatial_factor: int  # pixels along a side of a latent cell

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        z = config.latent_channels
        inner = (config.layers_per_block, config.norm_num_groups, config.mid_block_add_attention)
        self.config = config
        self.encoder = Encoder(Shape(config.block_out_channels, *inner), config.in_channels, 2 * z)
        self.decoder = Decoder(Shape(config.decoder_widths, *inner), z, config.out_channels)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(z, z, 1) if config.use_post_quant_conv else None

    @abstractmethod
    def encode_rows(self, pixels: Tensor) -> dict[str, Tensor]:
        """Encode pictures (B, 3, H, W) in [-1, 1] as what a row holds; each is (B, C, h, w)."""

    @abstractmethod
    def latents(self, rows: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Make latents (B, C, h, w) of rows: the mean, or with noise (B, C, h, w) a draw."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to pictures (B, 3, H, W), about in [-1, 1]."""

    @abstractmethod
    def raw_latents(self, pixels: Tensor) -> Tensor:
        """Encode pictures as latents (B, C, h, w) not yet normalised, to measure statistics of."""

    @abstractmethod
    def set_latent_statistics(self, mean: Tensor, var: Tensor) -> None:
        """Normalise from now on by mean and variance (C,), measured on raw latents."""

    @abstractmethod
    def set_scalar_normalisation(self, scaling_factor: float, shift_factor: float = 0.0) -> None:
        """Normalise from now on by (z - shift_factor) * scaling_factor."""

    def forward(self, pixels: Tensor, noise: Tensor) -> Reconstruction:
        """Encode, draw with noise of `posterior_shape` and decode, as training it needs."""
        mean, logvar = self.encode_moments(pixels)
        return Reconstruction(self.decode_raw(mean + (0.5 * logvar).exp() * noise), mean, logvar)

    def posterior_shape(self, pixels: Tensor) -> tuple[int, ...]:
        """Give the shape (B, Z, H / factor, W / factor) of the posterior of pictures."""
        factor = 2 ** (len(self.config.block_out_channels) - 1)
        height, width = pixels.shape[-2:]
        return (len(pixels), self.config.latent_channels, height // factor, width // factor)

    def encode_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pictures (B, 3, H, W) as the posterior's mean and log variance.

        Raises:
            ValueError: The pictures do not divide into latent cells.
        """
        factor = self.spatial_factor
        height, width = pixels.shape[-2:]
        if width % factor or height % factor:
            raise ValueError(
                f"{type(self).__name__}: pictures of {width}x{height} pixels do not divide into "
                f"cells of {factor}x{factor}: use buckets of multiples of {factor}"
            )
        moments = self.encoder(pixels)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)  # keeps the variance finite; as diffusers does

    def decode_raw(self, z: Tensor) -> Tensor:
        """Decode what `encode_moments` or a draw gave, not normalised, to pictures."""
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
