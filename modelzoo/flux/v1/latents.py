"""FLUX.1's latent format: 2 x 2 patches of normalised latents are tokens, and where they stand.

A token holds the channels "(c i j)" of a patch, i its row and j its column; tokens are read row by
row. Text tokens all stand at the origin, the target at t 0, reference i at t 1 + i.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

PATCH = 2  # latent cells along a side of a token
REFERENCE_STEP = 1  # in t, from one picture to the next


def pack(latents: Tensor) -> Tensor:
    """Turn latents (B, C, 2 h, 2 w) into tokens (B, h w, 4 C).

    Raises:
        ValueError: The sides are odd.
    """
    height, width = latents.shape[-2:]
    if height % PATCH or width % PATCH:
        raise ValueError(
            f"FLUX.1: latents of {height} x {width} cells do not divide into patches of 2 x 2: "
            "use pictures whose sides are multiples of 16 pixels"
        )
    return rearrange(latents, "b c (h i) (w j) -> b (h w) (c i j)", i=PATCH, j=PATCH)


def unpack(tokens: Tensor, height: int) -> Tensor:
    """Turn tokens (B, h w, 4 C) into latents (B, C, height, 2 w), where height is 2 h."""
    return rearrange(
        tokens, "b (h w) (c i j) -> b c (h i) (w j)", h=height // PATCH, i=PATCH, j=PATCH
    )


@lru_cache(maxsize=16)
def text_positions(length: int, device: torch.device) -> Tensor:
    """Give the positions (length, 4) of context tokens. Do not change the result: it is shared."""
    with torch.inference_mode(False):
        return torch.zeros(length, 4, dtype=torch.int64, device=device)
