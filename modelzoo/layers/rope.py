"""Rotary positions over several axes (Su et al. 2021, with one share of the head for each axis)."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(positions: Tensor, axes_dims: tuple[int, ...], theta: float) -> Tensor:
    """Give cosine and sine of the angles of positions (..., N, axes) as (..., N, 1, E / 2, 2).

    Axis i owns `axes_dims[i]` numbers of each head. The angles are formed in float64: at theta
    10000 and position 4000 float32 is off by 1e-4.
    """
    angles = []
    for axis, dim in enumerate(axes_dims):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
        angles.append(positions[..., axis, None].double() * theta**-exponents)
    joined = torch.cat(angles, dim=-1).unsqueeze(-2)
    return torch.stack([joined.cos(), joined.sin()], dim=-1).float()


def rotate(heads: Tensor, rope: Tensor) -> Tensor:
    """Rotate neighbouring pairs of heads (B, N, K, E) by their positions' angles, in float32."""
    pairs = heads.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # which fuses real numbers, but no complex ones
        (x, y), (cos, sin) = pairs.unbind(-1), rope.unbind(-1)
        rotated = torch.stack([x * cos - y * sin, y * cos + x * sin], dim=-1)
    else:  # one pass over memory; with sines and cosines apart it is ten times as slow on a CPU
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rope))
    return rotated.flatten(-2).to(heads.dtype)
