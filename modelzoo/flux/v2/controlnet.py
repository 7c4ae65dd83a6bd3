"""ControlNet for FLUX.2: copies of its first blocks, which see a picture that is to be followed.

None has been released in diffusers' form; it is what `FluxControlNetModel` is for FLUX.1, on the
blocks of FLUX.2 and without biases.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.checkpoints.config import to_json
from modelzoo.controlnet import grown_from
from modelzoo.flux.components.control import blocks_to_copy
from modelzoo.flux.components.positions import joint_rope
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2
from modelzoo.flux.v2.modulation import SharedModulation, TimeGuidanceEmbedding
from modelzoo.flux.v2.transformer import JointBlock, SingleBlock
from modelzoo.layers.checkpointing import runner
from modelzoo.layers.control import project


@dataclass(frozen=True)
class Flux2ControlNetConfig(Flux2Config):
    """Sizes of `Flux2ControlNetModel`; it has no output channels of its own.

    Raises:
        ValueError: The sizes contradict each other.
    """

    def to_dict(self) -> dict[str, Any]:
        """Give the content of a config.json."""
        values = to_json(self, "Flux2ControlNetModel")
        del values["out_channels"]
        return values


class Flux2Residuals(NamedTuple):
    """What is added behind the base's blocks, by the names of its forward's arguments."""

    controlnet_block_samples: tuple[Tensor, ...]  # (B, N, D) each
    controlnet_single_block_samples: tuple[Tensor, ...]


class Flux2ControlNetModel(nn.Module):
    """Give the residuals with which a FLUX.2 follows a picture."""

    CONFIG: ClassVar[Any] = Flux2ControlNetConfig

    def __init__(self, config: Flux2ControlNetConfig) -> None:
        super().__init__()
        dim, num_joint, num_single = config.dim, config.num_layers, config.num_single_layers
        self.config = config
        self.gradient_checkpointing = False
        self.time_guidance_embed = TimeGuidanceEmbedding(config)
        self.double_stream_modulation_img = SharedModulation(dim, sets=2)
        self.double_stream_modulation_txt = SharedModulation(dim, sets=2)
        self.single_stream_modulation = SharedModulation(dim, sets=1)
        self.x_embedder = nn.Linear(config.in_channels, dim, bias=False)
        self.context_embedder = nn.Linear(config.joint_attention_dim, dim, bias=False)
        self.transformer_blocks = nn.ModuleList(JointBlock(config) for _ in range(num_joint))
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(config) for _ in range(num_single)
        )
        self.controlnet_blocks = nn.ModuleList(
            nn.Linear(dim, dim, bias=False) for _ in range(num_joint)
        )
        self.controlnet_single_blocks = nn.ModuleList(
            nn.Linear(dim, dim, bias=False) for _ in range(num_single)
        )
        self.controlnet_x_embedder = nn.Linear(config.in_channels, dim, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        controlnet_cond: Tensor,
        guidance: Tensor | None = None,
        conditioning_scale: float = 1.0,
    ) -> Flux2Residuals:
        """Give the residuals of every block.

        Args:
            hidden_states: Noisy image tokens (B, N, C).
            encoder_hidden_states: Context (B, L, joint_attention_dim).
            timestep: (B,) in [0, 1]: 0 data, 1 noise.
            img_ids: Positions (N, 4), the same for the whole batch, or (B, N, 4).
            txt_ids: Positions (L, 4) or (B, L, 4).
            controlnet_cond: Tokens (B, N, C) of the picture to follow, encoded as the target is.
            guidance: (B,), for ControlNets that embed it, and only for those.
            conditioning_scale: Factor of all residuals.
        """
        num_text = encoder_hidden_states.shape[1]
        temb = self.time_guidance_embed(timestep, guidance, hidden_states.dtype)
        condition = F.silu(temb)
        img_mods = self.double_stream_modulation_img(condition)
        txt_mods = self.double_stream_modulation_txt(condition)
        (single_mod,) = self.single_stream_modulation(condition)
        rope = joint_rope((txt_ids, img_ids), self.config.axes_dims_rope, self.config.rope_theta)
        img = self.x_embedder(hidden_states) + self.controlnet_x_embedder(controlnet_cond)
        txt = self.context_embedder(encoder_hidden_states)
        run, streams, single_streams = runner(self), [], []
        for block in self.transformer_blocks:
            txt, img = run(block, txt, img, txt_mods, img_mods, rope)
            streams.append(img)
        joint = torch.cat([txt, img], dim=1)
        *singles, last = self.single_transformer_blocks
        for block in singles:
            joint = run(block, joint, single_mod, rope, slice(None))
            single_streams.append(joint[:, num_text:])
        # of the last block, only image tokens are of use
        single_streams.append(run(last, joint, single_mod, rope, slice(num_text, None)))
        return Flux2Residuals(
            project(self.controlnet_blocks, streams, conditioning_scale),
            project(self.controlnet_single_blocks, single_streams, conditioning_scale),
        )


def controlnet_from(
    denoiser: Flux2, num_layers: int | None = None, num_single_layers: int | None = None
) -> Flux2ControlNetModel:
    """Make a ControlNet of a base's first blocks, which at first changes nothing.

    Args:
        denoiser: The base, neither wrapped nor quantised; it is not changed.
        num_layers: Blocks with two streams to copy; None: four, or fewer where the base is small.
        num_single_layers: Blocks with one stream to copy, at least 1; None: likewise.

    Raises:
        ValueError: The base has fewer blocks, or channels for Fill, or one of the copies would
            serve no block of it.
    """
    numbers = blocks_to_copy(denoiser.config, num_layers, num_single_layers)
    config = Flux2ControlNetConfig(**{**asdict(denoiser.config), **numbers, "out_channels": None})
    return grown_from(Flux2ControlNetModel, config, denoiser.network, new=("controlnet_",))
