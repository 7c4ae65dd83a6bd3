"""Rotary positions over several axes (Su et al. 2021, with one share of the head for each axis)."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(positions: Tensor, axes_dims: tuple[int, ...], theta: float) -> Tensor:
    """Give e^(i angle) of positions (..., N, axes) as complex (..., N, 1, E / 2).

    Axis i owns `axes_dims[i]` numbers of each head. The angles are formed in float64: at theta
    10000 and position 4000 float32 is off by 1e-4.
    """
    angles = []
    for axis, dim in enumerate(axes_dims):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
        angles.append(positions[..., axis, None].double() * theta**-exponents)
    joined = torch.cat(angles, dim=-1).unsqueeze(-2)
    return torch.complex(joined.cos().float(), joined.sin().float())


def rotate(heads: Tensor, rope: Tensor) -> Tensor:
    """Rotate neighbouring pairs of heads (B, N, K, E) by their positions' angles, in float32.

    Pairs as complex numbers: on a CPU ten times as fast as sines and cosines apart.
    """
    pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rope).flatten(-2).to(heads.dtype)
