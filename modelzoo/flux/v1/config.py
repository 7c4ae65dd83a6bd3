"""Sizes of a FLUX.1 transformer, as they stand in a diffusers `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modelzoo.checkpoints.config import from_json, to_json

EPS = 1e-6  # of every norm
MLP_RATIO = 4  # width inside a feed-forward layer, relative to the model's
TIME_CHANNELS = 256  # of the sinusoid of time and of guidance
ROPE_THETA = 10_000


@dataclass(frozen=True)
class Flux1Config:
    """Sizes of `FluxTransformer2DModel`; a key missing in a file means the default.

    Raises:
        ValueError: The sizes contradict each other.
    """

    MIN_SINGLE_LAYERS: ClassVar[int] = 1  # the prediction is read from the last one

    patch_size: int = 1
    in_channels: int = 64
    out_channels: int | None = None  # None: the same as in_channels; Fill has 64 of 384
    num_layers: int = 19  # blocks with a text and an image stream
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096  # width of a context token
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)  # t, h, w

    def __post_init__(self) -> None:
        if self.patch_size != 1:
            raise ValueError(
                f"FLUX.1 transformer: patch_size {self.patch_size!r} is not supported; "
                "set 1, patches are made before the transformer"
            )
        if self.num_single_layers < self.MIN_SINGLE_LAYERS:
            raise ValueError(
                f"FLUX.1 transformer: num_single_layers {self.num_single_layers!r} must be at "
                f"least {self.MIN_SINGLE_LAYERS}, the prediction is read from the last one"
            )
        if len(self.axes_dims_rope) != 3 or any(dim % 2 for dim in self.axes_dims_rope):
            raise ValueError(
                f"FLUX.1 transformer: axes_dims_rope {list(self.axes_dims_rope)!r} must be three "
                "even numbers, for t, h and w"
            )
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(
                f"FLUX.1 transformer: axes_dims_rope {list(self.axes_dims_rope)!r} must sum to the "
                f"width of a head, {self.attention_head_dim}: change either"
            )

    @property
    def dim(self) -> int:
        """Width of the model."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_dim(self) -> int:
        """Width inside a feed-forward layer."""
        return MLP_RATIO * self.dim

    @property
    def rope_axes(self) -> tuple[int, ...]:
        """Rotary channels of t, h, w and l; the released models know no l, so it has none."""
        return (*self.axes_dims_rope, 0)

    @property
    def fill_channels(self) -> int:
        """Channels of an image token beyond those that are predicted: Fill's condition."""
        return self.in_channels - (self.out_channels or self.in_channels)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Flux1Config:
        """Read the content of a config.json."""
        return from_json(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        return to_json(self, "FluxTransformer2DModel")
