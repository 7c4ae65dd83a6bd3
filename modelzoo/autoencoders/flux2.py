"""FLUX.2's autoencoder: KL, with 2 x 2 patches normalised by stored batch-norm statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from modelzoo.autoencoders.autoencoder import Autoencoder
from modelzoo.autoencoders.kl import Decoder, Encoder, Shape
from modelzoo.checkpoints.config import from_json, to_json

IGNORED_KEYS = frozenset({"force_upcast"})  # says that float16 overflows; dtype is ours to choose


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of `AutoencoderKLFlux2`; a key missing in a file means the default, the released size.

    Raises:
        ValueError: A layer is asked for that this autoencoder does not have.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    decoder_block_out_channels: tuple[int, ...] | None = None  # None: as the encoder
    layers_per_block: int = 2
    act_fn: str = "silu"
    latent_channels: int = 32
    norm_num_groups: int = 32
    sample_size: int = 1024
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    batch_norm_eps: float = 1e-4
    batch_norm_momentum: float = 0.1
    patch_size: tuple[int, ...] = (2, 2)

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        fixed = {
            "act_fn": "silu",
            "patch_size": (2, 2),
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
        }
        for key, allowed in fixed.items():
            if (given := getattr(self, key)) != allowed:
                raise ValueError(
                    f"AutoencoderKLFlux2: {key} {given!r} is not supported; it must be {allowed!r}"
                )
        for width in (*self.block_out_channels, *(self.decoder_block_out_channels or ())):
            if width % self.norm_num_groups:
                raise ValueError(
                    f"AutoencoderKLFlux2: {width!r} channels do not divide into norm_num_groups "
                    f"{self.norm_num_groups!r}: change either"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderConfig:
        """Read the content of a config.json."""
        return from_json(cls, values, ignored=IGNORED_KEYS)

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        return to_json(self, "AutoencoderKLFlux2")


class Reconstruction(NamedTuple):
    """What training an autoencoder looks at."""

    pixels: Tensor  # (B, 3, H, W)
    mean: Tensor  # (B, Z, h, w), before patches
    logvar: Tensor  # (B, Z, h, w)


class AutoencoderKLFlux2(Autoencoder):
    """Encode to the normalised mean of the posterior: FLUX.2 never draws from it."""

    CONVENTION = "flux2-mean-patch2-bn-1"

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        z = config.latent_channels
        encoder = Shape(
            config.block_out_channels,
            config.layers_per_block,
            config.norm_num_groups,
            config.mid_block_add_attention,
        )
        decoder = Shape(
            config.decoder_block_out_channels or config.block_out_channels,
            config.layers_per_block,
            config.norm_num_groups,
            config.mid_block_add_attention,
        )
        self.config = config
        self.latent_channels = math.prod(config.patch_size) * z
        self.spatial_factor = config.patch_size[0] * 2 ** (len(config.block_out_channels) - 1)
        self.encoder = Encoder(encoder, config.in_channels, 2 * z)
        self.decoder = Decoder(decoder, z, config.out_channels)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(z, z, 1) if config.use_post_quant_conv else None
        self.bn = LatentStatistics(self.latent_channels, config.batch_norm_eps)

    @torch.no_grad()
    def encode_rows(self, pixels: Tensor) -> dict[str, Tensor]:
        """Encode pictures (B, 3, H, W) in [-1, 1] as their normalised mean (B, 4 Z, h, w)."""
        return {"mean": (self.patchified_mean(pixels) - self.bn.mean) / self.bn.std}

    def latents(self, rows: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Give the rows' mean (B, 4 Z, h, w), noise or not: FLUX.2 never draws."""
        return rows["mean"]

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (B, 4 Z, h, w) to pictures (B, 3, H, W), about in [-1, 1]."""
        return self.decode_raw(unpatchify(latents * self.bn.std + self.bn.mean))

    def forward(self, pixels: Tensor, noise: Tensor) -> Reconstruction:
        """Encode, draw with noise (B, Z, h, w) and decode, as training the autoencoder needs it."""
        mean, logvar = self.encode_moments(pixels)
        return Reconstruction(self.decode_raw(mean + (0.5 * logvar).exp() * noise), mean, logvar)

    def encode_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pictures (B, 3, H, W) as mean and log variance, each (B, Z, 2 h, 2 w)."""
        factor = self.spatial_factor
        if pixels.shape[-1] % factor or pixels.shape[-2] % factor:
            raise ValueError(
                f"AutoencoderKLFlux2: pictures of {pixels.shape[-1]}x{pixels.shape[-2]} pixels do "
                f"not divide into cells of {factor}x{factor}: use buckets of multiples of {factor}"
            )
        moments = self.encoder(pixels)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)  # keeps the variance finite; as diffusers does

    def decode_raw(self, z: Tensor) -> Tensor:
        """Decode (B, Z, 2 h, 2 w), neither patchified nor normalised, to pictures."""
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))

    def patchified_mean(self, pixels: Tensor) -> Tensor:
        """Encode pictures as patches (B, 4 Z, h, w), to measure the statistics to normalise by."""
        return patchify(self.encode_moments(pixels)[0])

    def set_latent_statistics(self, mean: Tensor, var: Tensor) -> None:
        """Store what latents are normalised by: mean and variance (4 Z,) of patchified means."""
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
