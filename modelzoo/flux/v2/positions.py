"""Where FLUX.2's tokens stand: text is counted along l, pictures lie ten apart along t."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

REFERENCE_STEP = 10  # in t: the target has 0, reference i has 10 + 10 i


@lru_cache(maxsize=16)
def text_positions(length: int, device: torch.device) -> Tensor:
    """Give the positions (length, 4) of context tokens. Do not change the result: it is shared."""
    with torch.inference_mode(False):
        counts = torch.arange(length, device=device)
        zeros = torch.zeros_like(counts)
        return torch.stack([zeros, zeros, zeros, counts], dim=-1)
