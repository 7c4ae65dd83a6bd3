"""The levels of SDXL's UNet: what happens at one resolution, on the way down and up again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from modelzoo.layers.checkpointing import Run
from modelzoo.sdxl.config import Level, UNetConfig
from modelzoo.sdxl.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from modelzoo.sdxl.transformer import Transformer2DModel


class Layers(nn.Module):
    """Resnets of one resolution, each followed by a transformer where the level attends."""

    def __init__(self, config: UNetConfig, level: Level, in_dims: Sequence[int]) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            Transformer2DModel(config, level) for _ in in_dims if level.depth
        )
        self.resnets = nn.ModuleList(ResnetBlock2D(config, in_dim, level.dim) for in_dim in in_dims)

    def layer(self, index: int, x: Tensor, emb: Tensor, context: Tensor, run: Run) -> Tensor:
        """Run one resnet and its transformer on x (B, in_dims[index], H, W)."""
        x = run(self.resnets[index], x, emb)
        return self.attentions[index](x, context, run) if self.attentions else x

    def blocks(self) -> Iterator[nn.Module]:
        """Go through resnets and transformer blocks in the order in which they run."""
        for index, resnet in enumerate(self.resnets):
            yield resnet
            for transformer in self.attentions[index : index + 1]:
                yield from transformer.get_submodule("transformer_blocks").children()


class DownBlock(Layers):
    """A level on the way down, which leaves every result behind for the way up."""

    def __init__(self, config: UNetConfig, level: Level, in_dim: int, shrink: bool) -> None:
        super().__init__(config, level, [in_dim] + [level.dim] * (config.layers_per_block - 1))
        self.downsamplers = nn.ModuleList([Downsample2D(level.dim)] if shrink else [])

    def forward(
        self, x: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor, run: Run
    ) -> Tensor:
        """Map x (B, in_dim, H, W) to (B, D, H / 2, W / 2), adding all results to `skips`."""
        for index in range(len(self.resnets)):
            x = self.layer(index, x, emb, context, run)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x


class MidBlock(Layers):
    """The bottom: a transformer between two resnets."""

    def __init__(self, config: UNetConfig, level: Level) -> None:
        super().__init__(config, level, [level.dim])
        self.resnets.append(ResnetBlock2D(config, level.dim, level.dim))

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, run: Run) -> Tensor:
        """Update x (B, D, H, W)."""
        return run(self.resnets[1], self.layer(0, x, emb, context, run), emb)


class UpBlock(Layers):
    """A level on the way up: every resnet also reads what the way down has left behind."""

    def __init__(
        self, config: UNetConfig, level: Level, in_dim: int, skip_dims: Sequence[int], grow: bool
    ) -> None:
        entering = [in_dim] + [level.dim] * (len(skip_dims) - 1)
        in_dims = [dim + skip for dim, skip in zip(entering, skip_dims, strict=True)]
        super().__init__(config, level, in_dims)
        self.upsamplers = nn.ModuleList([Upsample2D(level.dim)] if grow else [])

    def forward(
        self, x: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor, run: Run
    ) -> Tensor:
        """Map x (B, in_dim, H, W) to (B, D, 2 H, 2 W), taking its results from `skips`."""
        for index in range(len(self.resnets)):
            x = self.layer(index, torch.cat([x, skips.pop()], dim=1), emb, context, run)
        for upsample in self.upsamplers:
            x = upsample(x, skips[-1].shape[-2:])  # the way down rounded odd sides up
        return x
