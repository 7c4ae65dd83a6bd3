"""The one place where attention is computed, and where its kernel is chosen.

Without `attention_backend`, torch takes the fastest kernel that fits device, dtype and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

ATTENTION_BACKENDS = {
    "math": SDPBackend.MATH,  # plain matrix products and softmax: any device, most memory
    "flash": SDPBackend.FLASH_ATTENTION,  # Dao 2023; on NVIDIA half precision only, also on CPU
    "efficient": SDPBackend.EFFICIENT_ATTENTION,  # Rabe and Staats 2021; float32 on NVIDIA too
    "cudnn": SDPBackend.CUDNN_ATTENTION,  # NVIDIA's own, half precision
}


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend without a mask; query, key and value are (B, N, K, E), the result is (B, N, K * E)."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


@contextmanager
def attention_backend(name: str, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute all attention inside the `with` by one kernel.

    A backward pass uses the kernel of its forward pass; where blocks are checkpointed, which
    repeats forward passes, it belongs inside as well.

    Args:
        name: A key of ATTENTION_BACKENDS.
        device: Where the model runs.
        dtype: What it computes in.

    Raises:
        ValueError: The name is unknown, or the kernel does not run there.
    """
    if name not in ATTENTION_BACKENDS:
        raise ValueError(
            f"attention backend {name!r} is unknown; use one of {sorted(ATTENTION_BACKENDS)!r}"
        )
    with sdpa_kernel(ATTENTION_BACKENDS[name]):
        probe = torch.zeros(1, 8, 1, 64, device=device, dtype=dtype)
        try:
            attention(probe, probe, probe)
        except RuntimeError as error:  # torch can only tell by trying
            raise ValueError(
                f"attention backend {name!r} does not run on {device} in {dtype}; "
                f"use another of {sorted(ATTENTION_BACKENDS)!r}"
            ) from error
        yield
