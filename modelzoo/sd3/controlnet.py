"""ControlNet for SD3.5: copies of its first blocks, which see a picture that is to be followed.

Module names and configuration are those of diffusers' `SD3ControlNetModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.checkpoints.config import check_fixed, from_json, to_json
from modelzoo.controlnet import grown_from
from modelzoo.layers.checkpointing import runner
from modelzoo.layers.control import connected, project
from modelzoo.sd3.blocks import DualJointBlock, JointBlock
from modelzoo.sd3.config import SD3Config
from modelzoo.sd3.embeddings import PatchEmbedding, TimeTextEmbedding
from modelzoo.sd3.model import SD3

USUAL = 12  # blocks, as in diffusers
# Read by diffusers' class, which also serves nets that see neither the text nor positions.
FIXED = {"pos_embed_type": "sincos", "use_pos_embed": True}


@dataclass(frozen=True)
class SD3ControlNetConfig(SD3Config):
    """Sizes of `SD3ControlNetModel`, whose blocks all write the text as well.

    Raises:
        ValueError: The sizes contradict each other.
    """

    extra_conditioning_channels: int = 0  # of the picture to follow, beyond those of latents
    force_zeros_for_pooled_projection: bool = True  # it does not see the pooled text

    @property
    def num_joint_layers(self) -> int:
        """Blocks that write the text as well."""
        return self.num_layers

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SD3ControlNetConfig:
        """Read the content of a config.json.

        Raises:
            ValueError: It is that of a ControlNet that sees neither the text nor positions.
        """
        if values.get("joint_attention_dim", cls.joint_attention_dim) is None:
            raise ValueError(
                "config.json of SD3ControlNetModel: joint_attention_dim None is not supported, "
                "such a ControlNet does not see the text; give one that does"
            )
        check_fixed(values, FIXED, "SD3.5", "give a ControlNet that sees text and positions")
        return from_json(cls, values, frozenset(FIXED))

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        return {**to_json(self, "SD3ControlNetModel"), **FIXED}


class SD3Residuals(NamedTuple):
    """What is added behind the base's blocks, by the name of its forward's argument."""

    block_controlnet_hidden_states: tuple[Tensor, ...]  # (B, N, D) each


class SD3ControlNetModel(nn.Module):
    """Give the residuals with which an SD3.5 follows a picture."""

    CONFIG: ClassVar[Any] = SD3ControlNetConfig

    def __init__(self, config: SD3ControlNetConfig) -> None:
        super().__init__()
        dim, num_layers, dual = config.dim, config.num_layers, set(config.dual_attention_layers)
        self.config = config
        self.gradient_checkpointing = False
        self.pos_embed = PatchEmbedding(config)
        self.time_text_embed = TimeTextEmbedding(config)
        self.context_embedder = nn.Linear(config.joint_attention_dim, dim)
        self.transformer_blocks = nn.ModuleList(
            DualJointBlock(config) if i in dual else JointBlock(config) for i in range(num_layers)
        )
        self.controlnet_blocks = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_layers))
        self.pos_embed_input = ConditionEmbedding(config)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float = 1.0,
    ) -> SD3Residuals:
        """Give the residuals of every block.

        Args:
            hidden_states: Noisy latents (B, C, H, W); patch_size divides height and width.
            encoder_hidden_states: Context (B, L, joint_attention_dim).
            pooled_projections: Pooled text (B, pooled_projection_dim); where the configuration
                says force_zeros_for_pooled_projection, zeros are seen instead.
            timestep: (B,) in [0, 1000]: 0 data, 1000 noise.
            controlnet_cond: Latents (B, C + extra_conditioning_channels, H, W) of the picture to
                follow.
            conditioning_scale: Factor of all residuals.
        """
        if self.config.force_zeros_for_pooled_projection:
            pooled_projections = torch.zeros_like(pooled_projections)
        cond = F.silu(self.time_text_embed(timestep, pooled_projections))
        img = self.pos_embed(hidden_states) + self.pos_embed_input(controlnet_cond)
        txt = self.context_embedder(encoder_hidden_states)
        run, streams = runner(self), []
        for block in self.transformer_blocks:
            img, txt = run(block, img, txt, cond)
            streams.append(img)
        streams[-1] = connected(streams[-1], txt)
        return SD3Residuals(project(self.controlnet_blocks, streams, conditioning_scale))


class ConditionEmbedding(nn.Module):
    """Patches of the picture to follow become tokens; where they stand the noisy ones know."""

    def __init__(self, config: SD3ControlNetConfig) -> None:
        super().__init__()
        channels = config.in_channels + config.extra_conditioning_channels
        patch = config.patch_size
        self.proj = nn.Conv2d(channels, config.dim, patch, stride=patch)

    def forward(self, latents: Tensor) -> Tensor:
        """Embed latents (B, C, H, W) as (B, N, D), row by row."""
        return self.proj(latents).flatten(2).transpose(1, 2)


def controlnet_from(
    denoiser: SD3, num_layers: int | None = None, extra_conditioning_channels: int = 0
) -> SD3ControlNetModel:
    """Make a ControlNet of a base's first blocks, which at first changes nothing.

    Args:
        denoiser: The base, neither wrapped nor quantised; it is not changed.
        num_layers: Blocks to copy, at most half of the base's, so that each serves one of them,
            the last of which is not controlled; None: 12, or half of a small base's.
        extra_conditioning_channels: Of the picture to follow, beyond those of latents.

    Raises:
        ValueError: The base has fewer than twice the blocks.
    """
    base: SD3Config = denoiser.config
    most = base.num_layers // 2
    num_layers = min(USUAL, most) if num_layers is None else num_layers
    if not 1 <= num_layers <= most:
        raise ValueError(
            f"SD3.5 ControlNet: of num_layers {num_layers!r} blocks not every one would serve one "
            f"of the base's {base.num_layers}: give a number from 1 to {most}"
        )
    sizes = {
        **asdict(base),
        "num_layers": num_layers,
        "dual_attention_layers": tuple(i for i in base.dual_attention_layers if i < num_layers),
    }
    config = SD3ControlNetConfig(
        **sizes,
        extra_conditioning_channels=extra_conditioning_channels,
        force_zeros_for_pooled_projection=False,
    )
    new = ("controlnet_blocks.", "pos_embed_input.")
    return grown_from(SD3ControlNetModel, config, denoiser.network, new)
