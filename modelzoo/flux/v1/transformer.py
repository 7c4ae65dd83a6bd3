"""The FLUX.1 transformer (Black Forest Labs 2024), module names as in diffusers.

Text and image tokens pass through blocks with a stream each, then, concatenated, through blocks
with one stream whose attention and feed-forward run in parallel. Every block computes its own
modulation from time, pooled text and perhaps guidance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.flux.components.attention import JointAttention
from modelzoo.flux.components.conditions import input_tokens
from modelzoo.flux.components.embeddings import TimeGuidance
from modelzoo.flux.components.positions import joint_rope
from modelzoo.flux.v1.config import EPS, ROPE_THETA, TIME_CHANNELS, Flux1Config
from modelzoo.layers.attention import attention
from modelzoo.layers.checkpointing import runner
from modelzoo.layers.control import Residuals, add_residual, spread
from modelzoo.layers.embeddings import VectorEmbedding
from modelzoo.layers.feed_forward import FeedForward
from modelzoo.layers.modulation import ModulatedNorm, ModulatedNormOut, add_gated, modulate
from modelzoo.layers.norms import HeadNorm
from modelzoo.layers.rope import rotate


class FluxTransformer2DModel(nn.Module):
    """Predict the velocity of image tokens, given text, time and perhaps guidance and pictures."""

    def __init__(self, config: Flux1Config) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.gradient_checkpointing = False
        self.time_text_embed = TimeTextEmbedding(config)
        self.context_embedder = nn.Linear(config.joint_attention_dim, dim)
        self.x_embedder = nn.Linear(config.in_channels, dim)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(config) for _ in range(config.num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(config) for _ in range(config.num_single_layers)
        )
        self.norm_out = ModulatedNormOut(dim, EPS)
        self.proj_out = nn.Linear(dim, config.out_channels or config.in_channels)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
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
            pooled_projections: Pooled text (B, pooled_projection_dim).
            timestep: (B,) in [0, 1]: 0 data, 1 noise.
            img_ids: Positions (N, 4), the same for the whole batch, or (B, N, 4).
            txt_ids: Positions (L, 4) or (B, L, 4).
            guidance: (B,), for models that embed it (all but schnell), and only for those.
            img_cond_seq: Tokens (B, R, C) of reference pictures (Kontext).
            img_cond_seq_ids: Their positions (R, 4) or (B, R, 4).
            img_cond: Further channels (B, N, C') of the image tokens (Fill).
            controlnet_block_samples: What a ControlNet adds to image tokens (B, N, D) behind blocks
                with two streams.
            controlnet_single_block_samples: The same behind blocks with one stream.
        """
        num_text, num_image = encoder_hidden_states.shape[1], hidden_states.shape[1]
        condition = F.silu(self.time_text_embed(timestep, guidance, pooled_projections))
        ids = (txt_ids, img_ids, img_cond_seq_ids)
        rope = joint_rope(ids, self.config.rope_axes, ROPE_THETA)

        img = self.x_embedder(
            input_tokens(hidden_states, img_cond, img_cond_seq, self.config.in_channels)
        )
        txt = self.context_embedder(encoder_hidden_states)
        run, samples = runner(self), "controlnet_block_samples"
        blocks = self.transformer_blocks
        residuals = spread(controlnet_block_samples, len(blocks), num_image, samples)
        for block, residual in zip(blocks, residuals, strict=True):
            txt, img = run(block, txt, img, condition, rope)
            img = add_residual(img, residual)
        joint = torch.cat([txt, img], dim=1)
        blocks, samples = self.single_transformer_blocks, "controlnet_single_block_samples"
        residuals = spread(controlnet_single_block_samples, len(blocks), num_image, samples)
        # of the last block, only the target's tokens are of use
        last, target = blocks[-1], slice(num_text, num_text + num_image)
        for block, residual in zip(blocks, residuals, strict=True):
            kept = target if block is last else slice(None)
            joint = run(block, joint, condition, rope, kept)
            joint = add_residual(joint, residual, start=0 if block is last else num_text)
        return self.proj_out(self.norm_out(joint, condition))


class TimeTextEmbedding(TimeGuidance):
    """The embeddings of time and perhaps guidance, plus that of the pooled text."""

    def __init__(self, config: Flux1Config) -> None:
        super().__init__(TIME_CHANNELS, config.dim, config.guidance_embeds, bias=True)
        self.text_embedder = VectorEmbedding(config.pooled_projection_dim, config.dim)

    def forward(self, timestep: Tensor, guidance: Tensor | None, pooled: Tensor) -> Tensor:
        """Embed timestep (B,) in [0, 1], guidance (B,) and pooled text (B, P) as (B, D)."""
        return self.embed(timestep, guidance, pooled.dtype) + self.text_embedder(pooled)


class JointBlock(nn.Module):
    """Text and image keep their own weights and meet in one attention (Esser et al., fig. 2b)."""

    def __init__(self, config: Flux1Config) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = ModulatedNorm(dim, sets=2)
        self.norm1_context = ModulatedNorm(dim, sets=2)
        self.attn = JointAttention(dim, config.attention_head_dim, EPS, bias=True)
        self.norm2 = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.ff = FeedForward(dim, config.mlp_dim)
        self.norm2_context = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.ff_context = FeedForward(dim, config.mlp_dim)

    def forward(
        self, txt: Tensor, img: Tensor, condition: Tensor, rope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update txt (B, L, D) and img (B, N, D) under condition (B, D); rope covers all tokens."""
        txt_normed, (txt_mod1, txt_mod2) = self.norm1_context(txt, condition)
        img_normed, (img_mod1, img_mod2) = self.norm1(img, condition)
        txt_attn, img_attn = self.attn(txt_normed, img_normed, rope)
        txt = add_gated(txt, txt_attn, txt_mod1)
        img = add_gated(img, img_attn, img_mod1)
        txt_ff = self.ff_context(modulate(self.norm2_context(txt), txt_mod2))
        img_ff = self.ff(modulate(self.norm2(img), img_mod2))
        return add_gated(txt, txt_ff, txt_mod2), add_gated(img, img_ff, img_mod2)


class SingleBlock(nn.Module):
    """One stream; attention and feed-forward read the same norm (Dehghani et al. 2023, fig. 2)."""

    def __init__(self, config: Flux1Config) -> None:
        super().__init__()
        dim = config.dim
        self.norm = ModulatedNorm(dim, sets=1)
        self.attn = Attention(config)
        self.proj_mlp = nn.Linear(dim, config.mlp_dim)
        self.proj_out = nn.Linear(dim + config.mlp_dim, dim)

    def forward(self, joint: Tensor, condition: Tensor, rope: Tensor, kept: slice) -> Tensor:
        """Update the tokens `kept` of joint, text and image (B, L + N, D), and give only those."""
        normed, (modulation,) = self.norm(joint, condition)
        mlp = F.gelu(self.proj_mlp(normed[:, kept]), approximate="tanh")
        update = self.proj_out(torch.cat([self.attn(normed, rope, kept), mlp], dim=-1))
        return add_gated(joint[:, kept], update, modulation)


class Attention(nn.Module):
    """Attention among the tokens of one stream; its output projection is the block's."""

    def __init__(self, config: Flux1Config) -> None:
        super().__init__()
        dim, head_dim = config.dim, config.attention_head_dim
        self.head_dim = head_dim
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = HeadNorm(head_dim, EPS)
        self.norm_k = HeadNorm(head_dim, EPS)

    def forward(self, x: Tensor, rope: Tensor, asking: slice) -> Tensor:
        """Attend from the tokens `asking` of x (B, L + N, D) to all of them."""
        heads = (-1, self.head_dim)
        query = self.norm_q(self.to_q(x[:, asking]).unflatten(-1, heads))
        query = rotate(query, rope[:, asking])
        key = rotate(self.norm_k(self.to_k(x).unflatten(-1, heads)), rope)
        return attention(query, key, self.to_v(x).unflatten(-1, heads))
