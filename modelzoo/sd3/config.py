"""Sizes of an SD3.5 transformer, as they stand in a diffusers `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelzoo.checkpoints.config import from_json, to_json


@dataclass(frozen=True)
class SD3Config:
    """Sizes of `SD3Transformer2DModel`; a key missing in a file means diffusers' default.

    Raises:
        ValueError: The sizes contradict each other or are those of SD3.0, which lacks qk_norm.
    """

    sample_size: int = 128  # latent cells along a side at which positions have unit distance
    patch_size: int = 2
    in_channels: int = 16  # of latents; a token holds patch_size^2 times as many
    num_layers: int = 18
    attention_head_dim: int = 64
    num_attention_heads: int = 18
    joint_attention_dim: int = 4096  # width of a context token
    caption_projection_dim: int = 1152  # the model's width once more
    pooled_projection_dim: int = 2048
    out_channels: int | None = 16  # None: the same as in_channels
    pos_embed_max_size: int = 96  # tokens along a side for which positions are stored
    dual_attention_layers: tuple[int, ...] = ()  # Medium: the first 13
    qk_norm: str | None = None

    def __post_init__(self) -> None:
        if self.qk_norm != "rms_norm":
            raise ValueError(
                f"SD3.5 transformer: qk_norm {self.qk_norm!r} is not supported; "
                "use the weights of SD3.5, which have 'rms_norm' (SD3.0 has none)"
            )
        if self.caption_projection_dim != self.dim:
            raise ValueError(
                f"SD3.5 transformer: caption_projection_dim {self.caption_projection_dim!r} must "
                f"be num_attention_heads * attention_head_dim = {self.dim}: change either"
            )
        if self.dim % 4:
            raise ValueError(
                f"SD3.5 transformer: width {self.dim!r} must divide by 4, for the sines and "
                "cosines of two axes: change num_attention_heads or attention_head_dim"
            )
        last = self.num_joint_layers
        if wrong := [i for i in self.dual_attention_layers if not 0 <= i < last]:
            raise ValueError(
                f"SD3.5 transformer: dual_attention_layers names {wrong!r}, but only layers before "
                f"the last one, {last}, can have a second attention: name only such"
            )

    @property
    def num_joint_layers(self) -> int:
        """Blocks that write the text as well, which are all but the last."""
        return self.num_layers - 1

    @property
    def dim(self) -> int:
        """Width of the model."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_dim(self) -> int:
        """Width inside a feed-forward layer."""
        return 4 * self.dim

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SD3Config:
        """Read the content of a config.json."""
        return from_json(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        return to_json(self, "SD3Transformer2DModel")
