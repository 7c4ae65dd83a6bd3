"""The convolutional half of SDXL's UNet: residual blocks and changes of resolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.sdxl.config import UNetConfig


class ResnetBlock2D(nn.Module):
    """Two normed convolutions under an embedding, beside a shortcut (Dhariwal and Nichol 2021)."""

    def __init__(self, config: UNetConfig, in_dim: int, dim: int) -> None:
        super().__init__()
        groups, eps = config.norm_num_groups, config.norm_eps
        self.norm1 = nn.GroupNorm(groups, in_dim, eps)
        self.conv1 = nn.Conv2d(in_dim, dim, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.embedding_dim, dim)
        self.norm2 = nn.GroupNorm(groups, dim, eps)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_dim, dim, 1) if in_dim != dim else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x (B, in_dim, H, W) to (B, dim, H, W) under emb (B, embedding_dim)."""
        update = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(emb)[:, :, None, None]
        update = self.conv2(F.silu(self.norm2(update)))
        return update + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample2D(nn.Module):
    """Halve the resolution by a strided convolution; of an odd side the larger half remains."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2), rounded up."""
        return self.conv(x)


class Upsample2D(nn.Module):
    """Raise the resolution by repeating cells, then convolve."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map (B, C, H, W) to (B, C, *size)."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
