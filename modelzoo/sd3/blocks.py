"""The three kinds of blocks of SD3.5: joint, joint with a second attention, and the last one."""

from __future__ import annotations

from torch import Tensor, nn

from modelzoo.layers.feed_forward import FeedForward
from modelzoo.layers.modulation import (
    ModulatedNorm,
    ModulatedNormOut,
    Modulation,
    add_gated,
    modulate,
    split_modulation,
)
from modelzoo.sd3.attention import JointAttention, ReadingAttention, SelfAttention
from modelzoo.sd3.config import SD3Config

EPS = 1e-6


class JointBlock(nn.Module):
    """Image and text keep their own weights and meet in one attention (Esser et al., fig. 2b)."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = ModulatedNorm(dim, sets=2)
        self.norm1_context = ModulatedNorm(dim, sets=2)
        self.attn = JointAttention(config)
        self.norm2 = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.ff = FeedForward(dim, config.mlp_dim)
        self.norm2_context = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.ff_context = FeedForward(dim, config.mlp_dim)

    def forward(self, img: Tensor, txt: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Update img (B, N, D) and txt (B, L, D) under cond (B, D)."""
        img_normed, (img_mod1, img_mod2) = self.norm1(img, cond)
        txt_normed, (txt_mod1, txt_mod2) = self.norm1_context(txt, cond)
        img_attn, txt_attn = self.attn(img_normed, txt_normed)
        img = add_gated(img, img_attn, img_mod1)
        txt = add_gated(txt, txt_attn, txt_mod1)
        img_ff = self.ff(modulate(self.norm2(img), img_mod2))
        txt_ff = self.ff_context(modulate(self.norm2_context(txt), txt_mod2))
        return add_gated(img, img_ff, img_mod2), add_gated(txt, txt_ff, txt_mod2)


class DualJointBlock(nn.Module):
    """A joint block whose image tokens attend among themselves as well (MMDiT-X, of Medium)."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = DualModulatedNorm(dim)
        self.norm1_context = ModulatedNorm(dim, sets=2)
        self.attn = JointAttention(config)
        self.attn2 = SelfAttention(config)
        self.norm2 = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.ff = FeedForward(dim, config.mlp_dim)
        self.norm2_context = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.ff_context = FeedForward(dim, config.mlp_dim)

    def forward(self, img: Tensor, txt: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Update img (B, N, D) and txt (B, L, D) under cond (B, D)."""
        img_normed, img_normed2, (img_mod1, img_mod2, img_mod3) = self.norm1(img, cond)
        txt_normed, (txt_mod1, txt_mod2) = self.norm1_context(txt, cond)
        img_attn, txt_attn = self.attn(img_normed, txt_normed)
        img = add_gated(img, img_attn, img_mod1)
        img = add_gated(img, self.attn2(img_normed2), img_mod3)
        txt = add_gated(txt, txt_attn, txt_mod1)
        img_ff = self.ff(modulate(self.norm2(img), img_mod2))
        txt_ff = self.ff_context(modulate(self.norm2_context(txt), txt_mod2))
        return add_gated(img, img_ff, img_mod2), add_gated(txt, txt_ff, txt_mod2)


class DualModulatedNorm(nn.Module):
    """A norm without weights that is modulated twice, for two attentions side by side."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 9 * dim)
        self.norm = nn.LayerNorm(dim, EPS, elementwise_affine=False)

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor, list[Modulation]]:
        """Normalise x (B, N, D) by the first and by the third modulation that follow from cond.

        The second is of the feed-forward layer.
        """
        modulations = split_modulation(self.linear(cond), 3)
        normed = self.norm(x)
        return modulate(normed, modulations[0]), modulate(normed, modulations[2]), modulations


class LastBlock(nn.Module):
    """The block whose text is read by the image and not written, since nothing follows."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = ModulatedNorm(dim, sets=2)
        self.norm1_context = ModulatedNormOut(dim)
        self.attn = ReadingAttention(config)
        self.norm2 = nn.LayerNorm(dim, EPS, elementwise_affine=False)
        self.ff = FeedForward(dim, config.mlp_dim)

    def forward(self, img: Tensor, txt: Tensor, cond: Tensor) -> Tensor:
        """Update img (B, N, D) from txt (B, L, D) under cond (B, D)."""
        normed, (mod1, mod2) = self.norm1(img, cond)
        img = add_gated(img, self.attn(normed, self.norm1_context(txt, cond)), mod1)
        return add_gated(img, self.ff(modulate(self.norm2(img), mod2)), mod2)
