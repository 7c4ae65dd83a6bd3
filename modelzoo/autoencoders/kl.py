"""Encoder and decoder of the convolutional KL autoencoders (Rombach et al. 2022, appendix G).

Module names are those of diffusers: resnets, downsamplers, mid_block.attentions and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.layers.attention import attention

EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    """What encoder and decoder agree on."""

    widths: Sequence[int]  # channels of each level, finest first
    layers: int  # residual blocks of a level of the encoder; the decoder has one more
    groups: int  # of every group norm
    attend: bool  # whether the coarsest level attends


class Encoder(nn.Module):
    """Halve the picture between levels; out come `out_channels` planes."""

    def __init__(self, shape: Shape, in_channels: int, out_channels: int) -> None:
        super().__init__()
        first, last = shape.widths[0], shape.widths[-1]
        self.conv_in = nn.Conv2d(in_channels, first, 3, padding=1)
        before = (first, *shape.widths[:-1])
        self.down_blocks = nn.ModuleList(
            DownBlock(narrow, wide, shape, shrink=level < len(shape.widths) - 1)
            for level, (narrow, wide) in enumerate(zip(before, shape.widths, strict=True))
        )
        self.mid_block = MidBlock(last, shape)
        self.conv_norm_out = nn.GroupNorm(shape.groups, last, EPS)
        self.conv_out = nn.Conv2d(last, out_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode (B, in_channels, H, W) as (B, out_channels, H / factor, W / factor)."""
        x = self.conv_in(pixels)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Mirror the encoder, doubling the picture between levels."""

    def __init__(self, shape: Shape, in_channels: int, out_channels: int) -> None:
        super().__init__()
        widths = tuple(reversed(shape.widths))
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.up_blocks = nn.ModuleList(
            UpBlock(wide, narrow, shape, grow=level < len(widths) - 1)
            for level, (wide, narrow) in enumerate(
                zip((widths[0], *widths[:-1]), widths, strict=True)
            )
        )
        self.mid_block = MidBlock(widths[0], shape)
        self.conv_norm_out = nn.GroupNorm(shape.groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Decode (B, in_channels, h, w) to (B, out_channels, h * factor, w * factor)."""
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class DownBlock(nn.Module):
    """Residual blocks, then a picture of half the size (except on the last level)."""

    def __init__(self, in_channels: int, out_channels: int, shape: Shape, shrink: bool) -> None:
        super().__init__()
        self.resnets = residual_blocks(in_channels, out_channels, shape.layers, shape.groups)
        self.downsamplers = nn.ModuleList([Downsample(out_channels)] if shrink else [])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H / 2, W / 2)."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nn.Module):
    """Residual blocks, then a picture of twice the size (except on the last level)."""

    def __init__(self, in_channels: int, out_channels: int, shape: Shape, grow: bool) -> None:
        super().__init__()
        self.resnets = residual_blocks(in_channels, out_channels, shape.layers + 1, shape.groups)
        self.upsamplers = nn.ModuleList([Upsample(out_channels)] if grow else [])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, 2 H, 2 W)."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class MidBlock(nn.Module):
    """Two residual blocks, with attention over all cells between them."""

    def __init__(self, channels: int, shape: Shape) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            [SpatialAttention(channels, shape.groups)] if shape.attend else []
        )
        self.resnets = residual_blocks(channels, channels, 2, shape.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = self.resnets[0](x)
        for attend in self.attentions:
            x = attend(x)
        return self.resnets[1](x)


class ResidualBlock(nn.Module):
    """Two normed convolutions beside a shortcut, which is learned where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        update = self.conv1(F.silu(self.norm1(x)))
        update = self.conv2(F.silu(self.norm2(update)))
        return update + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class SpatialAttention(nn.Module):
    """Attention with one head among all cells of a picture."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        cells = self.group_norm(x).flatten(2).transpose(1, 2)
        heads = (layer(cells).unsqueeze(2) for layer in (self.to_q, self.to_k, self.to_v))
        update = self.to_out[0](attention(*heads))
        return x + update.transpose(1, 2).unflatten(2, x.shape[-2:])


class Downsample(nn.Module):
    """Halve a picture by a strided convolution that is padded right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double a picture by repeating cells, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def residual_blocks(in_channels: int, out_channels: int, count: int, groups: int) -> nn.ModuleList:
    """Chain residual blocks; the first one changes the width."""
    return nn.ModuleList(
        ResidualBlock(in_channels if i == 0 else out_channels, out_channels, groups)
        for i in range(count)
    )
