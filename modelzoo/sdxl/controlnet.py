"""ControlNet for SDXL: a copy of the UNet's way down, which sees a picture that is to be followed.

Module names and configuration are those of diffusers' `ControlNetModel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.checkpoints.config import check_fixed, check_required, from_json, to_json
from modelzoo.controlnet import grown_from
from modelzoo.layers.checkpointing import runner
from modelzoo.layers.control import project
from modelzoo.layers.initialisation import init_weights
from modelzoo.sdxl.config import FIXED as UNET_FIXED
from modelzoo.sdxl.config import REQUIRED as UNET_REQUIRED
from modelzoo.sdxl.config import UP_BLOCK_TYPES, UNetConfig
from modelzoo.sdxl.model import SDXL
from modelzoo.sdxl.unet import Descent

CLASS = "ControlNetModel"
UNET_ONLY = {  # what a UNet's configuration says and that of its way down does not
    "conv_in_kernel",
    "conv_out_kernel",
    "attention_type",
    "center_input_sample",
    "class_embeddings_concat",
    "cross_attention_norm",
    "dropout",
    "dual_cross_attention",
    "mid_block_only_cross_attention",
    "resnet_out_scale_factor",
    "resnet_skip_time_act",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
    "time_embedding_dim",
    "time_embedding_type",
    "timestep_post_act",
}
FIXED: dict[str, Any] = {
    **{name: value for name, value in UNET_FIXED.items() if name not in UNET_ONLY},
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}
WAY_UP = ("sample_size", "out_channels", "up_block_types", "reverse_transformer_layers_per_block")
REQUIRED = tuple(name for name in UNET_REQUIRED if name not in WAY_UP)


@dataclass(frozen=True)
class ControlNetConfig(UNetConfig):
    """Sizes of `ControlNetModel`: those of the UNet, of which it is the way down, and two more.

    Raises:
        ValueError: The sizes contradict each other or are those of another UNet's ControlNet.
    """

    conditioning_channels: int = 3  # of the picture to follow
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)  # halving but once

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ControlNetConfig:
        """Read the content of a config.json.

        Raises:
            ValueError: It is that of another UNet's ControlNet.
        """
        advice = "give a ControlNet of SDXL"
        check_required(values, REQUIRED, "an SDXL ControlNet", advice)
        check_fixed(values, FIXED, "SDXL", advice)
        return from_json(cls, {**values, **way_up(values)}, frozenset(FIXED))

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        values = {**to_json(self, CLASS), **FIXED}
        return {name: value for name, value in values.items() if name not in WAY_UP}


def way_up(values: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the sizes of a way down imply of the way up."""
    kinds, depths = values["down_block_types"], values["transformer_layers_per_block"]
    apart = isinstance(depths, list) and len(depths) > len(kinds)
    return {
        "up_block_types": [UP_BLOCK_TYPES.get(kind, "") for kind in reversed(kinds)],
        "reverse_transformer_layers_per_block": depths[-2::-1] if apart else None,
    }


class UNetResiduals(NamedTuple):
    """What is added to the results of the base's way down, by its forward's arguments' names."""

    down_block_additional_residuals: tuple[Tensor, ...]  # (B, D, H, W) of every result
    mid_block_additional_residual: Tensor


class ControlNetModel(Descent):
    """Give the residuals with which an SDXL follows a picture."""

    CONFIG: ClassVar[Any] = ControlNetConfig

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config)
        self.controlnet_cond_embedding = ConditionEmbedding(config)
        dims = config.skip_dims
        self.controlnet_down_blocks = nn.ModuleList(nn.Conv2d(dim, dim, 1) for dim in dims)
        self.controlnet_mid_block = nn.Conv2d(dims[-1], dims[-1], 1)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        time_ids: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float = 1.0,
    ) -> UNetResiduals:
        """Give the residuals of every result of the way down, and of the bottom.

        Args:
            hidden_states: Noisy latents (B, C, H, W).
            encoder_hidden_states: Context (B, L, cross_attention_dim).
            pooled_projections: Pooled text (B, P).
            timestep: (B,) in [0, 1000).
            time_ids: (B, 6) pixels: original height and width, crop top and left, target height
                and width.
            controlnet_cond: The picture to follow (B, conditioning_channels, 8 H, 8 W), in [0, 1].
            conditioning_scale: Factor of all residuals.
        """
        emb = self.embedding(timestep, pooled_projections, time_ids, hidden_states.dtype)
        x = self.conv_in(hidden_states) + self.controlnet_cond_embedding(controlnet_cond)
        x, skips = self.descend(x, emb, encoder_hidden_states, runner(self))
        down = project(self.controlnet_down_blocks, skips, conditioning_scale)
        return UNetResiduals(down, self.controlnet_mid_block(x) * conditioning_scale)


class ConditionEmbedding(nn.Module):
    """Pixels become cells of latents by convolutions of which every second halves the sides."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        dims = config.conditioning_embedding_out_channels
        self.conv_in = nn.Conv2d(config.conditioning_channels, dims[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for dim, next_dim in pairwise(dims):
            self.blocks.append(nn.Conv2d(dim, dim, 3, padding=1))
            self.blocks.append(nn.Conv2d(dim, next_dim, 3, stride=2, padding=1))
        self.conv_out = nn.Conv2d(dims[-1], config.block_out_channels[0], 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed pixels (B, C, 8 H, 8 W) as (B, D, H, W)."""
        x = F.silu(self.conv_in(pixels))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


def controlnet_from(
    denoiser: SDXL,
    seed: int,
    conditioning_channels: int = 3,
    embedding_channels: Sequence[int] = (16, 32, 96, 256),
) -> ControlNetModel:
    """Make a ControlNet of a base's way down, which at first changes nothing.

    Args:
        denoiser: The base, neither wrapped nor quantised; it is not changed.
        seed: Of the first weights of what embeds the picture to follow.
        conditioning_channels: Channels of that picture.
        embedding_channels: Widths of what embeds it; each but the first halves the sides, so that
            four are for an autoencoder of factor 8.
    """
    config = ControlNetConfig(
        **asdict(denoiser.config),
        conditioning_channels=conditioning_channels,
        conditioning_embedding_out_channels=tuple(embedding_channels),
    )
    name = "controlnet_cond_embedding"
    embedding = ConditionEmbedding(config)
    with torch.no_grad():
        init_weights(embedding, torch.Generator().manual_seed(seed), [embedding.conv_out])
    fresh = {f"{name}.{key}": value for key, value in embedding.state_dict().items()}
    return grown_from(ControlNetModel, config, denoiser.network, ("controlnet_",), fresh)
