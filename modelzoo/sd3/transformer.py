"""The SD3.5 transformer (MMDiT, Esser et al. 2024), module names as in diffusers.

Image and text tokens keep their own weights and meet in one attention in every block. Time and the
pooled text modulate both streams. In the last block the text is read and no longer written.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modelzoo.layers.checkpointing import runner
from modelzoo.layers.control import Residuals, add_residual, check_residuals
from modelzoo.layers.modulation import ModulatedNormOut
from modelzoo.sd3.blocks import DualJointBlock, JointBlock, LastBlock
from modelzoo.sd3.config import SD3Config
from modelzoo.sd3.embeddings import PatchEmbedding, TimeTextEmbedding


class SD3Transformer2DModel(nn.Module):
    """Predict the velocity of latents, given text tokens, pooled text and time."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__()
        dim, last = config.dim, config.num_layers - 1
        self.config = config
        self.gradient_checkpointing = False
        self.pos_embed = PatchEmbedding(config)
        self.time_text_embed = TimeTextEmbedding(config)
        self.context_embedder = nn.Linear(config.joint_attention_dim, dim)
        dual = set(config.dual_attention_layers)
        self.transformer_blocks = nn.ModuleList(
            DualJointBlock(config) if i in dual else JointBlock(config) for i in range(last)
        )
        self.transformer_blocks.append(LastBlock(config))
        self.norm_out = ModulatedNormOut(dim)
        channels = config.out_channels or config.in_channels
        self.proj_out = nn.Linear(dim, config.patch_size**2 * channels)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        block_controlnet_hidden_states: Residuals | None = None,
    ) -> Tensor:
        """Give the velocity (B, C, H, W) of latents.

        Args:
            hidden_states: Noisy latents (B, C, H, W); patch_size divides height and width.
            encoder_hidden_states: Context (B, L, joint_attention_dim).
            pooled_projections: Pooled text (B, pooled_projection_dim).
            timestep: (B,) in [0, 1000]: 0 data, 1000 noise.
            block_controlnet_hidden_states: What a ControlNet adds to image tokens (B, N, D) behind
                blocks; the last block is not controlled.
        """
        *blocks, last = self.transformer_blocks
        cond = F.silu(self.time_text_embed(timestep, pooled_projections))
        img = self.pos_embed(hidden_states)
        txt = self.context_embedder(encoder_hidden_states)
        run, residuals = runner(self), spread(block_controlnet_hidden_states, len(blocks), img)
        for block, residual in zip(blocks, residuals, strict=True):
            img, txt = run(block, img, txt, cond)
            img = add_residual(img, residual)
        img = run(last, img, txt, cond)
        patches = self.proj_out(self.norm_out(img, cond))
        return unpatchify(patches, hidden_states.shape[-2], self.config.patch_size)


def spread(residuals: Residuals | None, num_joint: int, img: Tensor) -> list[Tensor | None]:
    """Give each of the `num_joint` blocks before the last its residual (B, N, D), or None.

    Where a ControlNet has fewer blocks, its residuals are laid evenly over all blocks, the last
    included, as in diffusers.

    Raises:
        ValueError: There are more residuals than blocks, or they are not those of img (B, N, D).
    """
    if not residuals:
        return [None] * num_joint
    num_blocks = num_joint + 1
    check_residuals(residuals, num_blocks, img.shape[1], "block_controlnet_hidden_states")
    interval = num_blocks / len(residuals)
    return [residuals[int(index / interval)] for index in range(num_joint)]


def unpatchify(patches: Tensor, height: int, patch_size: int) -> Tensor:
    """Lay patches (B, N, p * p * C), channels innermost, out as (B, C, height, W)."""
    rows = height // patch_size
    layout = "b (h w) (p q c) -> b c (h p) (w q)"
    return rearrange(patches, layout, h=rows, p=patch_size, q=patch_size)
