"""The FLUX.2 transformer (Black Forest Labs 2025), module names as in diffusers.

Text and image tokens pass through blocks with a stream each, then, concatenated, through blocks
with one stream whose attention and feed-forward run in parallel. No layer has a bias. Blocks own
no modulation: three of them are computed once from time (and guidance) and shared by all blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.flux.components.attention import JointAttention
from modelzoo.flux.components.conditions import input_tokens
from modelzoo.flux.components.positions import joint_rope
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.modulation import SharedModulation, TimeGuidanceEmbedding
from modelzoo.layers.attention import attention
from modelzoo.layers.checkpointing import runner
from modelzoo.layers.control import Residuals, add_residual, spread
from modelzoo.layers.modulation import ModulatedNormOut, Modulation, add_gated, modulate
from modelzoo.layers.norms import HeadNorm
from modelzoo.layers.rope import rotate


class Flux2Transformer2DModel(nn.Module):
    """Predict the velocity of image tokens, given text, time and perhaps guidance and pictures."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.gradient_checkpointing = False
        self.time_guidance_embed = TimeGuidanceEmbedding(config)
        self.double_stream_modulation_img = SharedModulation(dim, sets=2)
        self.double_stream_modulation_txt = SharedModulation(dim, sets=2)
        self.single_stream_modulation = SharedModulation(dim, sets=1)
        self.x_embedder = nn.Linear(config.in_channels, dim, bias=False)
        self.context_embedder = nn.Linear(config.joint_attention_dim, dim, bias=False)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(config) for _ in range(config.num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(config) for _ in range(config.num_single_layers)
        )
        self.norm_out = ModulatedNormOut(dim, config.eps, bias=False)
        self.proj_out = nn.Linear(dim, config.out_channels or config.in_channels, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor | None = None,
        img_cond_seq: Tensor | None = None,
        img_cond_seq_ids: Tensor | None = None,
        img_cond: Tensor | None = None,
        controlnet_block_samples: Residuals | None = None,
        controlnet_single_block_samples: Residuals | None = None,
    ) -> Tensor:
        """Give the velocity (B, N, C) of image tokens.

        Args:
            hidden_states: Noisy image tokens (B, N, C).
            encoder_hidden_states: Context (B, L, joint_attention_dim).
            timestep: (B,) in [0, 1]: 0 data, 1 noise.
            img_ids: Positions (N, 4), the same for the whole batch, or (B, N, 4).
            txt_ids: Positions (L, 4) or (B, L, 4).
            guidance: (B,), for models that embed it (dev), and only for those.
            img_cond_seq: Tokens (B, R, C) of reference pictures.
            img_cond_seq_ids: Their positions (R, 4) or (B, R, 4).
            img_cond: Further channels (B, N, C') of the image tokens, for models with more input
                than output channels (Fill, which none of the released ones is).
            controlnet_block_samples: What a ControlNet adds to image tokens (B, N, D) behind blocks
                with two streams.
            controlnet_single_block_samples: The same behind blocks with one stream.
        """
        num_text, num_image = encoder_hidden_states.shape[1], hidden_states.shape[1]
        temb = self.time_guidance_embed(timestep, guidance, hidden_states.dtype)
        condition = F.silu(temb)
        img_mods = self.double_stream_modulation_img(condition)
        txt_mods = self.double_stream_modulation_txt(condition)
        (single_mod,) = self.single_stream_modulation(condition)
        ids = (txt_ids, img_ids, img_cond_seq_ids)
        rope = joint_rope(ids, self.config.axes_dims_rope, self.config.rope_theta)

        img = self.x_embedder(
            input_tokens(hidden_states, img_cond, img_cond_seq, self.config.in_channels)
        )
        txt = self.context_embedder(encoder_hidden_states)
        run, samples = runner(self), "controlnet_block_samples"
        blocks = self.transformer_blocks
        residuals = spread(controlnet_block_samples, len(blocks), num_image, samples)
        for block, residual in zip(blocks, residuals, strict=True):
            txt, img = run(block, txt, img, txt_mods, img_mods, rope)
            img = add_residual(img, residual)
        joint = torch.cat([txt, img], dim=1)
        blocks, samples = self.single_transformer_blocks, "controlnet_single_block_samples"
        residuals = spread(controlnet_single_block_samples, len(blocks), num_image, samples)
        # of the last block, only the target's tokens are of use
        last, target = blocks[-1], slice(num_text, num_text + num_image)
        for block, residual in zip(blocks, residuals, strict=True):
            kept = target if block is last else slice(None)
            joint = run(block, joint, single_mod, rope, kept)
            joint = add_residual(joint, residual, start=0 if block is last else num_text)
        return self.proj_out(self.norm_out(joint, condition))


class JointBlock(nn.Module):
    """Text and image keep their own weights and meet in one attention."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.norm1_context = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.attn = JointAttention(dim, config.attention_head_dim, eps, bias=False)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.ff = FeedForward(dim, config.mlp_dim)
        self.norm2_context = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.ff_context = FeedForward(dim, config.mlp_dim)

    def forward(
        self,
        txt: Tensor,
        img: Tensor,
        txt_mods: list[Modulation],
        img_mods: list[Modulation],
        rope: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Update txt (B, L, D) and img (B, N, D); rope covers the L + N positions."""
        (txt_mod1, txt_mod2), (img_mod1, img_mod2) = txt_mods, img_mods
        txt_attn, img_attn = self.attn(
            modulate(self.norm1_context(txt), txt_mod1), modulate(self.norm1(img), img_mod1), rope
        )
        txt = add_gated(txt, txt_attn, txt_mod1)
        img = add_gated(img, img_attn, img_mod1)
        txt_ff = self.ff_context(modulate(self.norm2_context(txt), txt_mod2))
        img_ff = self.ff(modulate(self.norm2(img), img_mod2))
        return add_gated(txt, txt_ff, txt_mod2), add_gated(img, img_ff, img_mod2)


class SingleBlock(nn.Module):
    """One stream; attention and feed-forward read the same norm (Dehghani et al. 2023, fig. 2)."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, config.eps, elementwise_affine=False)
        self.attn = ParallelAttention(config)

    def forward(self, joint: Tensor, modulation: Modulation, rope: Tensor, kept: slice) -> Tensor:
        """Update the tokens `kept` of joint, text and image (B, L + N, D), and give only those."""
        update = self.attn(modulate(self.norm(joint), modulation), rope, kept)
        return add_gated(joint[:, kept], update, modulation)


class ParallelAttention(nn.Module):
    """Attention and a gated feed-forward that share their input and their output projection."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        dim, mlp_dim, head_dim = config.dim, config.mlp_dim, config.attention_head_dim
        self.head_dim = head_dim
        self.widths = [dim, dim, dim, 2 * mlp_dim]  # query, key, value, gate and value of the MLP
        self.to_qkv_mlp_proj = nn.Linear(dim, sum(self.widths), bias=False)
        self.norm_q = HeadNorm(head_dim, config.eps)
        self.norm_k = HeadNorm(head_dim, config.eps)
        self.to_out = nn.Linear(dim + mlp_dim, dim, bias=False)

    def forward(self, x: Tensor, rope: Tensor, kept: slice) -> Tensor:
        """Give the update of the tokens `kept` of x (B, L + N, D)."""
        query, key, value, mlp = self.to_qkv_mlp_proj(x).split(self.widths, dim=-1)
        heads = (-1, self.head_dim)
        query = rotate(self.norm_q(query[:, kept].unflatten(-1, heads)), rope[:, kept])
        key = rotate(self.norm_k(key.unflatten(-1, heads)), rope)
        attended = attention(query, key, value.unflatten(-1, heads))
        return self.to_out(torch.cat([attended, swiglu(mlp[:, kept])], dim=-1))


class FeedForward(nn.Module):
    """Two linear layers around a gated SiLU."""

    def __init__(self, dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(dim, 2 * mlp_dim, bias=False)
        self.linear_out = nn.Linear(mlp_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.linear_out(swiglu(self.linear_in(x)))


def swiglu(x: Tensor) -> Tensor:
    """Gate the second half of the last axis by the SiLU of the first (Shazeer 2020, eq. 6)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value
