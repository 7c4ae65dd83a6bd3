"""Positions (t, h, w, l) of FLUX's tokens: t tells pictures apart, l counts tokens of text."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from modelzoo.layers.rope import rope_table


@lru_cache(maxsize=64)
def image_positions(height: int, width: int, device: torch.device, t: float = 0) -> Tensor:
    """Give the positions (height * width, 4) of a picture's tokens, row by row.

    A target has t 0. Do not change the result: it is shared.
    """
    with torch.inference_mode(False):
        rows = torch.arange(height, device=device).repeat_interleave(width)
        columns = torch.arange(width, device=device).repeat(height)
        zeros = torch.zeros_like(rows)
        return torch.stack([zeros + t, rows, columns, zeros], dim=-1)


@lru_cache(maxsize=64)
def reference_positions(
    sizes: tuple[tuple[int, int], ...], step: float, device: torch.device
) -> Tensor:
    """Give the positions (R, 4) of reference pictures of the given heights and widths in tokens.

    Picture i has t = step * (i + 1), with rows and columns of its own. Do not change the result.
    """
    with torch.inference_mode(False):
        return torch.cat(
            [
                image_positions(height, width, device, t=step * (i + 1))
                for i, (height, width) in enumerate(sizes)
            ]
        )


@lru_cache(maxsize=64)
def joint_rope(ids: tuple[Tensor | None, ...], axes: tuple[int, ...], theta: float) -> Tensor:
    """Compute the table of the tokens of `ids`, one after the other, once for the same tensors.

    Each is (N, 4), the same for the whole batch, or (B, N, 4), or None if there are no such tokens.
    Tensors hash by identity, and the functions above give the same tensor for the same shape.

    Raises:
        ValueError: Positions have another number of columns than there are axes.
    """
    given = [tensor for tensor in ids if tensor is not None]
    for tensor in given:
        if tensor.shape[-1] != len(axes):
            raise ValueError(
                f"FLUX positions are {list(tensor.shape)!r}, but the last axis must be "
                f"{len(axes)}, for t, h, w and l: append columns of zeros"
            )
    with torch.inference_mode(False):  # a table made while sampling must serve training too
        batched = [tensor if tensor.ndim == 3 else tensor[None] for tensor in given]
        rows = max(len(tensor) for tensor in batched)
        joined = torch.cat([tensor.expand(rows, -1, -1) for tensor in batched], dim=1)
        return rope_table(joined, axes, theta)
