"""How time and guidance reach FLUX.2: their embedding, and the modulations all blocks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.flux.v2.config import Flux2Config
from modelzoo.layers.embeddings import ScalarEmbedding
from modelzoo.layers.modulation import Modulation, split_modulation


class SharedModulation(nn.Module):
    """`sets` modulations from the time embedding, used by every block of a kind."""

    def __init__(self, dim: int, sets: int) -> None:
        super().__init__()
        self.sets = sets
        self.linear = nn.Linear(dim, 3 * sets * dim, bias=False)

    def forward(self, temb: Tensor) -> list[Modulation]:
        """Compute the modulations under temb (B, D)."""
        return split_modulation(self.linear(F.silu(temb)), self.sets)


class ModulatedNormOut(nn.Module):
    """The last norm, with a scale and shift of its own (in this order, unlike the blocks')."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self.linear = nn.Linear(config.dim, 2 * config.dim, bias=False)
        self.norm = nn.LayerNorm(config.dim, config.eps, elementwise_affine=False)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """Normalise x (B, N, D) under temb (B, D)."""
        scale, shift = self.linear(F.silu(temb))[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class TimeGuidanceEmbedding(nn.Module):
    """The embedding of time, plus that of guidance in models distilled from guided ones."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        channels = config.timestep_guidance_channels
        self.timestep_embedder = ScalarEmbedding(channels, config.dim, bias=False)
        self.guidance_embedder = (
            ScalarEmbedding(channels, config.dim, bias=False) if config.guidance_embeds else None
        )

    def forward(self, timestep: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Embed timestep (B,) in [0, 1] and guidance (B,) as (B, D)."""
        temb = self.timestep_embedder(1000 * timestep, dtype)
        if guidance is None and self.guidance_embedder is None:
            return temb
        if guidance is None or self.guidance_embedder is None:
            given, embeds = guidance is not None, self.guidance_embedder is not None
            raise ValueError(
                f"FLUX.2 transformer: guidance_embeds is {embeds}, but guidance was "
                f"{'' if given else 'not '}given: {'leave it out' if given else 'pass it'}"
            )
        return temb + self.guidance_embedder(1000 * guidance, dtype)
