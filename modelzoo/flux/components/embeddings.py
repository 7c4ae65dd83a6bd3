"""How time and guidance reach FLUX."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelzoo.layers.embeddings import ScalarEmbedding

SCALE = 1000  # time and guidance are embedded a thousandfold


class TimeGuidance(nn.Module):
    """What embeds time, and guidance in models distilled from guided ones."""

    def __init__(self, channels: int, dim: int, guidance_embeds: bool, bias: bool) -> None:
        super().__init__()
        self.timestep_embedder = ScalarEmbedding(channels, dim, bias)
        self.guidance_embedder = ScalarEmbedding(channels, dim, bias) if guidance_embeds else None

    def embed(self, timestep: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Embed timestep (B,) in [0, 1] and guidance (B,) as (B, D)."""
        temb = self.timestep_embedder(SCALE * timestep, dtype)
        if guidance is None and self.guidance_embedder is None:
            return temb
        if guidance is None or self.guidance_embedder is None:
            given, embeds = guidance is not None, self.guidance_embedder is not None
            raise ValueError(
                f"FLUX transformer: guidance_embeds is {embeds}, but guidance was "
                f"{'' if given else 'not '}given: {'leave it out' if given else 'pass it'}"
            )
        return temb + self.guidance_embedder(SCALE * guidance, dtype)
