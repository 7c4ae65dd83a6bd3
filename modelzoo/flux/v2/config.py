"""Sizes of a FLUX.2 transformer, as they stand in a diffusers `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelzoo.checkpoints.config import from_json, to_json


@dataclass(frozen=True)
class Flux2Config:
    """Sizes of `Flux2Transformer2DModel`; a key missing in a file means the default, which is dev.

    Raises:
        ValueError: The sizes contradict each other.
    """

    patch_size: int = 1
    in_channels: int = 128
    out_channels: int | None = None  # None: the same as in_channels; of a Fill model it is smaller
    num_layers: int = 8  # blocks with a text and an image stream
    num_single_layers: int = 48
    attention_head_dim: int = 128
    num_attention_heads: int = 48
    joint_attention_dim: int = 15360  # width of a context token
    timestep_guidance_channels: int = 256
    mlp_ratio: float = 3.0
    axes_dims_rope: tuple[int, ...] = (32, 32, 32, 32)  # t, h, w, l
    rope_theta: int = 2000
    eps: float = 1e-6
    guidance_embeds: bool = True

    def __post_init__(self) -> None:
        if self.patch_size != 1:
            raise ValueError(
                f"FLUX.2 transformer: patch_size {self.patch_size!r} is not supported; "
                "set 1, the autoencoder makes the patches"
            )
        if self.num_single_layers < 1:
            raise ValueError(
                f"FLUX.2 transformer: num_single_layers {self.num_single_layers!r} must be at "
                "least 1, the prediction is read from the last one"
            )
        if len(self.axes_dims_rope) != 4 or any(dim % 2 for dim in self.axes_dims_rope):
            raise ValueError(
                f"FLUX.2 transformer: axes_dims_rope {list(self.axes_dims_rope)!r} must be four "
                "even numbers, for t, h, w and l"
            )
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(
                f"FLUX.2 transformer: axes_dims_rope {list(self.axes_dims_rope)!r} must sum to the "
                f"width of a head, {self.attention_head_dim}: change either"
            )

    @property
    def dim(self) -> int:
        """Width of the model."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_dim(self) -> int:
        """Width inside a feed-forward layer."""
        return int(self.dim * self.mlp_ratio)

    @property
    def fill_channels(self) -> int:
        """Channels of an image token beyond those that are predicted: Fill's condition."""
        return self.in_channels - (self.out_channels or self.in_channels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Flux2Config:
        """Read the content of a config.json."""
        return from_json(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        return to_json(self, "Flux2Transformer2DModel")
