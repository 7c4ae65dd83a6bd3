"""How time and guidance reach FLUX.2: their embedding, and the modulations all blocks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelzoo.flux.components.embeddings import TimeGuidance
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.layers.modulation import Modulation, split_modulation


class SharedModulation(nn.Module):
    """`sets` modulations from the condition, used by every block of a kind."""

    def __init__(self, dim: int, sets: int) -> None:
        super().__init__()
        self.sets = sets
        self.linear = nn.Linear(dim, 3 * sets * dim, bias=False)

    def forward(self, condition: Tensor) -> list[Modulation]:
        """Compute the modulations under condition (B, D)."""
        return split_modulation(self.linear(condition), self.sets)


class TimeGuidanceEmbedding(TimeGuidance):
    """The embedding of time, plus that of guidance in models distilled from guided ones."""

    def __init__(self, config: Flux2Config) -> None:
        channels = config.timestep_guidance_channels
        super().__init__(channels, config.dim, config.guidance_embeds, bias=False)

    def forward(self, timestep: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Embed timestep (B,) in [0, 1] and guidance (B,) as (B, D)."""
        return self.embed(timestep, guidance, dtype)
