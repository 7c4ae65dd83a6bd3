"""The norm of queries and keys."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class HeadNorm(nn.RMSNorm):
    """The RMS norm of each head (Zhang and Sennrich 2019, eq. 4), with a learned weight.

    Where torch has a kernel for it, that is used. On a CPU torch composes it of two dozen passes
    over memory, forward and back, which are three times as slow as the ten below.
    """

    def __init__(self, head_dim: int, eps: float = 1e-6) -> None:
        super().__init__(head_dim, eps)

    def forward(self, heads: Tensor) -> Tensor:
        """Normalise the last axis of heads (B, N, K, E)."""
        if heads.is_cpu:
            return CpuHeadNorm.apply(heads, self.weight, self.eps)
        weight = self.weight.to(heads.dtype)  # learned in float32 by a Control-LoRA
        return F.rms_norm(heads, self.normalized_shape, weight, self.eps)


class CpuHeadNorm(torch.autograd.Function):
    """heads * weight / rms(heads), in float32 inside; only heads and 1 / rms are kept."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Normalise heads (..., E)."""
        wide = heads.float()
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        inverse = square.div_(heads.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(heads, weight, inverse)
        return (wide * inverse).mul_(weight).to(heads.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Take the part along the heads out of the gradient: their length does not matter."""
        heads, weight, inverse = ctx.saved_tensors
        normed, grad = heads.float() * inverse, grad.float()
        grad_weight = (grad * normed).flatten(0, -2).sum(0)
        grad = grad * weight
        along = torch.linalg.vecdot(grad, normed).div_(heads.shape[-1])[..., None]
        grad_heads = grad.addcmul_(normed, along, value=-1).mul_(inverse)
        return grad_heads.to(heads.dtype), grad_weight.to(weight.dtype), None
