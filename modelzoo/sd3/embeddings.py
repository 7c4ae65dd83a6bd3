"""How latents, their places, time and the pooled text enter SD3.5."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelzoo.layers.embeddings import ScalarEmbedding, VectorEmbedding
from modelzoo.sd3.config import SD3Config

TIME_CHANNELS = 256


class PatchEmbedding(nn.Module):
    """Patches of latents become tokens that know their place.

    The table of places is fixed but belongs to the released weights, so it is stored and loaded. It
    covers `max_size` x `max_size` tokens; a smaller picture lies in the middle of it.
    """

    pos_embed: Tensor

    def __init__(self, config: SD3Config) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.max_size = config.pos_embed_max_size
        self.proj = nn.Conv2d(
            config.in_channels, config.dim, config.patch_size, stride=config.patch_size
        )
        self.unit = config.sample_size // config.patch_size
        self.register_buffer("pos_embed", self.table())

    def forward(self, latents: Tensor) -> Tensor:
        """Embed latents (B, C, H, W) as (B, N, D), row by row.

        Raises:
            ValueError: The picture has half a token or more tokens than places are stored for.
        """
        places = self.places(*latents.shape[-2:])
        # channels last, because tokens are wanted: (B, h, w, D) without a copy
        cells = self.proj(latents.contiguous(memory_format=torch.channels_last))
        return (cells.permute(0, 2, 3, 1) + places).flatten(1, 2)

    def table(self) -> Tensor:
        """Compute the table (1, max_size * max_size, D) anew."""
        return sine_table(self.proj.out_channels, self.max_size, self.unit).flatten(0, 1)[None]

    def places(self, height: int, width: int) -> Tensor:
        """Give the places (h, w, D) of a picture of height x width latent cells."""
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"SD3.5 transformer: latents of {height} x {width} do not divide into patches of "
                f"{self.patch_size} x {self.patch_size}: give pictures whose sides are multiples"
            )
        rows, columns = height // self.patch_size, width // self.patch_size
        if max(rows, columns) > self.max_size:
            raise ValueError(
                f"SD3.5 transformer: a picture of {rows} x {columns} tokens was given, but places "
                f"are stored for at most {self.max_size} along a side: give a smaller picture or "
                "weights with a larger pos_embed_max_size"
            )
        top, left = (self.max_size - rows) // 2, (self.max_size - columns) // 2
        table = self.pos_embed.view(self.max_size, self.max_size, -1)
        return table[top : top + rows, left : left + columns]


def sine_table(dim: int, max_size: int, unit: int) -> Tensor:
    """Compute the places (max_size, max_size, dim) of tokens, row by row, in float32.

    The first half of the channels says the column and the second the row, each as sines, then
    cosines (Vaswani et al. 2017, section 3.5). Neighbours are unit / max_size apart: whatever its
    size, the table spans `unit`.
    """
    positions = torch.arange(max_size, dtype=torch.float32) / (max_size / unit)
    exponents = torch.arange(dim // 4, dtype=torch.float64) / (dim // 4)
    angles = positions[:, None] * 10000**-exponents
    axis = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    columns, rows = axis[None].expand(max_size, -1, -1), axis[:, None].expand(-1, max_size, -1)
    return torch.cat([columns, rows], dim=-1)


class TimeTextEmbedding(nn.Module):
    """The embedding of time plus that of the pooled text."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__()
        self.timestep_embedder = ScalarEmbedding(TIME_CHANNELS, config.dim)
        self.text_embedder = VectorEmbedding(config.pooled_projection_dim, config.dim)

    def forward(self, timestep: Tensor, pooled: Tensor) -> Tensor:
        """Embed timestep (B,) in [0, 1000] and pooled (B, pooled_projection_dim) as (B, D)."""
        return self.timestep_embedder(timestep, pooled.dtype) + self.text_embedder(pooled)
