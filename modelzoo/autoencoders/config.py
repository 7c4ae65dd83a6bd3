"""Sizes of the autoencoders, as their config.json gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from modelzoo.checkpoints.config import from_json, to_json

IGNORED_KEYS = frozenset({"force_upcast"})  # says that float16 overflows; dtype is ours to choose

C = TypeVar("C", bound="AutoencoderConfig")


@dataclass(frozen=True)
class AutoencoderConfig:
    """What all have; a key missing in a file means the default, the released size.

    Raises:
        ValueError: A layer is asked for that our autoencoders do not have.
    """

    CLASS_NAME: ClassVar[str]

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    act_fn: str = "silu"
    latent_channels: int = 4  # of the posterior
    norm_num_groups: int = 32
    sample_size: int = 1024
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        for key, allowed in self.fixed().items():
            if (given := getattr(self, key)) != allowed:
                raise ValueError(
                    f"{self.CLASS_NAME}: {key} {given!r} is not supported; it must be {allowed!r}"
                )
        for width in (*self.block_out_channels, *self.decoder_widths):
            if width % self.norm_num_groups:
                raise ValueError(
                    f"{self.CLASS_NAME}: {width!r} channels do not divide into norm_num_groups "
                    f"{self.norm_num_groups!r}: change either"
                )

    def fixed(self) -> dict[str, Any]:
        """Name the keys that may have one value only, and that value."""
        levels = len(self.block_out_channels)
        return {
            "act_fn": "silu",
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
        }

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The channels of the decoder's levels, finest first."""
        return self.block_out_channels

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        """Read the content of a config.json."""
        return from_json(cls, values, ignored=IGNORED_KEYS)

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        return to_json(self, self.CLASS_NAME)


@dataclass(frozen=True)
class AutoencoderKLConfig(AutoencoderConfig):
    """Sizes of `AutoencoderKL`, and the two numbers that normalise its latents."""

    CLASS_NAME: ClassVar[str] = "AutoencoderKL"

    scaling_factor: float = 0.18215
    shift_factor: float | None = None  # None: this family's latents are not shifted
    latents_mean: None = None  # channel by channel, as no model here has it
    latents_std: None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scaling_factor <= 0:
            raise ValueError(
                f"AutoencoderKL: scaling_factor {self.scaling_factor!r} must be above 0: give one "
                "over the standard deviation of the latents"
            )

    def fixed(self) -> dict[str, Any]:
        """Name the keys that may have one value only, and that value."""
        return {**super().fixed(), "latents_mean": None, "latents_std": None}


@dataclass(frozen=True)
class AutoencoderKLFlux2Config(AutoencoderConfig):
    """Sizes of `AutoencoderKLFlux2`, whose file holds what normalises its latents."""

    CLASS_NAME: ClassVar[str] = "AutoencoderKLFlux2"

    latent_channels: int = 32
    decoder_block_out_channels: tuple[int, ...] | None = None  # None: as the encoder
    batch_norm_eps: float = 1e-4
    batch_norm_momentum: float = 0.1
    patch_size: tuple[int, ...] = (2, 2)

    def fixed(self) -> dict[str, Any]:
        """Name the keys that may have one value only, and that value."""
        return {**super().fixed(), "patch_size": (2, 2)}

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The channels of the decoder's levels, finest first."""
        return self.decoder_block_out_channels or self.block_out_channels
