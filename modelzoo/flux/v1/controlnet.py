"""ControlNet for FLUX.1: copies of its first blocks, which see a picture that is to be followed.

Module names and configuration are those of diffusers' `FluxControlNetModel`.
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
from modelzoo.flux.components.control import blocks_to_copy
from modelzoo.flux.components.positions import joint_rope
from modelzoo.flux.v1.config import ROPE_THETA, Flux1Config
from modelzoo.flux.v1.model import Flux1
from modelzoo.flux.v1.transformer import JointBlock, SingleBlock, TimeTextEmbedding
from modelzoo.layers.checkpointing import runner
from modelzoo.layers.control import connected, project

# Read by diffusers' class: nets of several modes, and those that read pixels instead of latents.
FIXED = {"num_mode": None, "conditioning_embedding_channels": None}


@dataclass(frozen=True)
class FluxControlNetConfig(Flux1Config):
    """Sizes of `FluxControlNetModel`; it has no output channels of its own.

    Raises:
        ValueError: The sizes contradict each other.
    """

    MIN_SINGLE_LAYERS: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_layers + self.num_single_layers < 1:
            raise ValueError("FLUX.1 ControlNet: it has no block: give num_layers of 1 or more")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FluxControlNetConfig:
        """Read the content of a config.json.

        Raises:
            ValueError: It is that of a ControlNet of several modes, or of one that reads pixels.
        """
        advice = "give a ControlNet of one mode whose condition is latents"
        check_fixed(values, FIXED, "FLUX.1", advice)
        return from_json(cls, values, frozenset(FIXED))

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        values = {**to_json(self, "FluxControlNetModel"), **FIXED}
        del values["out_channels"]
        return values


class FluxResiduals(NamedTuple):
    """What is added behind the base's blocks, by the names of its forward's arguments."""

    controlnet_block_samples: tuple[Tensor, ...]  # (B, N, D) each
    controlnet_single_block_samples: tuple[Tensor, ...]


class FluxControlNetModel(nn.Module):
    """Give the residuals with which a FLUX.1 follows a picture."""

    CONFIG: ClassVar[Any] = FluxControlNetConfig

    def __init__(self, config: FluxControlNetConfig) -> None:
        super().__init__()
        dim, num_joint, num_single = config.dim, config.num_layers, config.num_single_layers
        self.config = config
        self.gradient_checkpointing = False
        self.time_text_embed = TimeTextEmbedding(config)
        self.context_embedder = nn.Linear(config.joint_attention_dim, dim)
        self.x_embedder = nn.Linear(config.in_channels, dim)
        self.transformer_blocks = nn.ModuleList(JointBlock(config) for _ in range(num_joint))
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(config) for _ in range(num_single)
        )
        self.controlnet_blocks = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_joint))
        self.controlnet_single_blocks = nn.ModuleList(
            nn.Linear(dim, dim) for _ in range(num_single)
        )
        self.controlnet_x_embedder = nn.Linear(config.in_channels, dim)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        controlnet_cond: Tensor,
        guidance: Tensor | None = None,
        conditioning_scale: float = 1.0,
    ) -> FluxResiduals:
        """Give the residuals of every block.

        Args:
            hidden_states: Noisy image tokens (B, N, C).
            encoder_hidden_states: Context (B, L, joint_attention_dim).
            pooled_projections: Pooled text (B, pooled_projection_dim).
            timestep: (B,) in [0, 1]: 0 data, 1 noise.
            img_ids: Positions (N, 4), the same for the whole batch, or (B, N, 4).
            txt_ids: Positions (L, 4) or (B, L, 4).
            controlnet_cond: Tokens (B, N, C) of the picture to follow, encoded as the target is.
            guidance: (B,), for ControlNets that embed it, and only for those.
            conditioning_scale: Factor of all residuals.
        """
        num_text = encoder_hidden_states.shape[1]
        condition = F.silu(self.time_text_embed(timestep, guidance, pooled_projections))
        rope = joint_rope((txt_ids, img_ids), self.config.rope_axes, ROPE_THETA)
        img = self.x_embedder(hidden_states) + self.controlnet_x_embedder(controlnet_cond)
        txt = self.context_embedder(encoder_hidden_states)
        run, streams, single_streams = runner(self), [], []
        for block in self.transformer_blocks:
            txt, img = run(block, txt, img, condition, rope)
            streams.append(img)
        joint = torch.cat([txt, img], dim=1)
        singles = list(self.single_transformer_blocks)
        for block in singles[:-1]:
            joint = run(block, joint, condition, rope, slice(None))
            single_streams.append(joint[:, num_text:])
        for block in singles[-1:]:  # of which only image tokens are of use
            single_streams.append(run(block, joint, condition, rope, slice(num_text, None)))
        if not singles:
            streams[-1] = connected(streams[-1], txt)
        return FluxResiduals(
            project(self.controlnet_blocks, streams, conditioning_scale),
            project(self.controlnet_single_blocks, single_streams, conditioning_scale),
        )


def controlnet_from(
    denoiser: Flux1, num_layers: int | None = None, num_single_layers: int | None = None
) -> FluxControlNetModel:
    """Make a ControlNet of a base's first blocks, which at first changes nothing.

    Args:
        denoiser: The base, neither wrapped nor quantised; it is not changed.
        num_layers: Blocks with two streams to copy; None: four, or fewer where the base is small.
        num_single_layers: Blocks with one stream to copy; None: likewise.

    Raises:
        ValueError: The base has fewer blocks, or channels for Fill, or one of the copies would
            serve no block of it.
    """
    numbers = blocks_to_copy(denoiser.config, num_layers, num_single_layers)
    config = FluxControlNetConfig(**{**asdict(denoiser.config), **numbers, "out_channels": None})
    return grown_from(FluxControlNetModel, config, denoiser.network, new=("controlnet_",))
