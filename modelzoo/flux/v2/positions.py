"""Positions (t, h, w, l) of FLUX.2's tokens; t tells pictures apart, l counts text tokens."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from modelzoo.layers.rope import rope_table


@lru_cache(maxsize=64)
def image_positions(height: int, width: int, device: torch.device, t: int = 0) -> Tensor:
    """Give the positions (height * width, 4) of a latent picture's cells, row by row.

    A target has t 0, reference picture i has t 10 + 10 i. Do not change the result: it is shared.
    """
    with torch.inference_mode(False):
        rows = torch.arange(height, device=device).repeat_interleave(width)
        columns = torch.arange(width, device=device).repeat(height)
        zeros = torch.zeros_like(rows)
        return torch.stack([zeros + t, rows, columns, zeros], dim=-1)


@lru_cache(maxsize=16)
def text_positions(length: int, device: torch.device) -> Tensor:
    """Give the positions (length, 4) of context tokens. Do not change the result: it is shared."""
    with torch.inference_mode(False):
        counts = torch.arange(length, device=device)
        zeros = torch.zeros_like(counts)
        return torch.stack([zeros, zeros, zeros, counts], dim=-1)


@lru_cache(maxsize=64)
def joint_rope(txt_ids: Tensor, img_ids: Tensor, axes: tuple[int, ...], theta: float) -> Tensor:
    """Compute the table of text followed by image tokens, once for each pair of tensors.

    Tensors hash by identity, and the two functions above give the same tensor for the same shape.
    """
    with torch.inference_mode(False):  # a table made while sampling must serve training too
        return rope_table(torch.cat([txt_ids, img_ids]), axes, theta)
