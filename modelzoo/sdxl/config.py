"""Sizes of SDXL's UNet, as they stand in a diffusers `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelzoo.checkpoints.config import check_fixed, check_required, from_json, to_json

CLASS = "UNet2DConditionModel"
UP_BLOCK_TYPES = {"DownBlock2D": "UpBlock2D", "CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}
# Read by diffusers' class, which serves many models; SDXL has one value of each.
FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "upcast_attention": None,
    "use_linear_projection": True,
}
# Where a file leaves these out, diffusers reads the value of another model than SDXL.
REQUIRED = (
    "addition_embed_type",
    "addition_time_embed_dim",
    "attention_head_dim",
    "block_out_channels",
    "cross_attention_dim",
    "down_block_types",
    "projection_class_embeddings_input_dim",
    "transformer_layers_per_block",
    "up_block_types",
    "use_linear_projection",
)


class Level(NamedTuple):
    """One resolution of the UNet."""

    dim: int  # channels
    heads: int
    depth: int  # transformer blocks behind each resnet; 0: no attention here


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of `UNet2DConditionModel`; the defaults are SDXL base 1.0.

    Raises:
        ValueError: The sizes contradict each other or are those of another UNet.
    """

    sample_size: int = field(default=128, compare=False)  # latent side that pipelines default to
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2)
    up_block_types: tuple[str, ...] = (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (320, 640, 1280)  # finest level first
    layers_per_block: int = 2  # resnets of a level on the way down; on the way up one more
    transformer_layers_per_block: tuple[int, ...] = (1, 2, 10)  # the last is the mid block's too
    reverse_transformer_layers_per_block: tuple[int, ...] | None = None  # given: see `mid_depth`
    attention_head_dim: tuple[int, ...] = (5, 10, 20)  # numbers of heads, despite the name
    cross_attention_dim: int = 2048  # width of a context token
    addition_time_embed_dim: int = 256  # of each of the six sizes
    projection_class_embeddings_input_dim: int = 2816  # pooled vector and embedded sizes together
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("block_out_channels", "attention_head_dim", "transformer_layers_per_block"):
            if not isinstance(getattr(self, name), tuple):
                raise ValueError(
                    f"SDXL UNet: {name} {getattr(self, name)!r} must be a list, one number a level"
                )
        self._check_lengths()
        self._check_block_types()
        for dim, heads, depth in self.levels:
            if dim % self.norm_num_groups or (depth and dim % heads):
                raise ValueError(
                    f"SDXL UNet: a level of {dim} channels needs norm_num_groups "
                    f"({self.norm_num_groups}) and its number of heads ({heads}) to divide it: "
                    "change either"
                )
        if self.pooled_dim < 1:
            raise ValueError(
                "SDXL UNet: projection_class_embeddings_input_dim "
                f"{self.projection_class_embeddings_input_dim!r} must be the width of the pooled "
                f"vector plus 6 * addition_time_embed_dim = {6 * self.addition_time_embed_dim}"
            )

    def _check_lengths(self) -> None:
        depths, reverse = (
            self.transformer_layers_per_block,
            self.reverse_transformer_layers_per_block,
        )
        lengths = {len(self.block_out_channels), len(self.attention_head_dim)}
        lengths |= {len(self.down_block_types), len(self.up_block_types)}
        lengths.add(len(depths) if reverse is None else len(depths) - 1)
        if len(lengths) > 1:
            raise ValueError(
                f"SDXL UNet: the sizes {self!r} are of different numbers of levels; give one "
                "block type, width, number of heads and depth a level"
            )
        if reverse is not None and reverse != depths[-2::-1]:
            raise ValueError(
                f"SDXL UNet: reverse_transformer_layers_per_block {list(reverse)!r} must be "
                f"{list(depths[-2::-1])!r}, the levels of transformer_layers_per_block "
                f"{list(depths)!r} backwards, the last entry being the mid block's"
            )

    def _check_block_types(self) -> None:
        known = UP_BLOCK_TYPES
        mirrored = tuple(known.get(name, "") for name in reversed(self.down_block_types))
        if self.up_block_types != mirrored:
            raise ValueError(
                f"SDXL UNet: down_block_types {list(self.down_block_types)!r} and up_block_types "
                f"{list(self.up_block_types)!r} must mirror each other, pairs being {known!r}"
            )

    @property
    def levels(self) -> tuple[Level, ...]:
        """Give the levels, finest first."""
        return tuple(
            Level(dim, heads, depth if kind.startswith("CrossAttn") else 0)
            for dim, heads, depth, kind in zip(
                self.block_out_channels,
                self.attention_head_dim,
                self.transformer_layers_per_block,
                self.down_block_types,
                strict=False,  # the depths may have a last entry for the mid block
            )
        )

    @property
    def skip_dims(self) -> list[int]:
        """List the channels of what the way down leaves behind, in its order."""
        dims, levels = [self.block_out_channels[0]], self.levels
        for place, level in enumerate(levels, start=1):
            dims += [level.dim] * (self.layers_per_block + (place < len(levels)))
        return dims

    @property
    def mid_depth(self) -> int:
        """Transformer blocks at the bottom.

        diffusers takes the last entry of transformer_layers_per_block for it. Where it is not that
        of the last level, it is an entry of its own, and the way up has a list of its own.
        """
        return self.transformer_layers_per_block[-1]

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding of time, pooled text and sizes."""
        return 4 * self.block_out_channels[0]

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text vector."""
        return self.projection_class_embeddings_input_dim - 6 * self.addition_time_embed_dim

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """Read the content of a config.json.

        Raises:
            ValueError: It is that of another UNet than SDXL's.
        """
        advice = "give the unet folder of an SDXL model"
        check_required(values, REQUIRED, "an SDXL UNet", advice)
        check_fixed(values, FIXED, "SDXL", advice)
        return from_json(cls, values, frozenset(FIXED))

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        return {**to_json(self, CLASS), **FIXED}
