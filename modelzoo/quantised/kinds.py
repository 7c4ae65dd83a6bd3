"""How a weight is packed into 8 or 4 bits a value, and unpacked: one pair of functions a kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modelzoo.adapters.library import bitsandbytes

INT8_MAX = 127.0
FP8_MAX = 448.0  # of float8_e4m3fn, where larger values become NaN
NF4_BLOCK = 64  # values that share a scale, in the order in which they lie in memory


class Packed(NamedTuple):
    """A packed weight, whose values no conversion of a module's dtype reaches."""

    values: Tensor  # int8 or uint8, of fp8 its bytes
    scale: Tensor  # float32


@dataclass(frozen=True)
class Kind:
    """A way to keep a weight (out, in) in fewer bits.

    Attributes:
        pack: Of a float32 weight.
        unpack: Gives the weight of a shape in a dtype.
        bits: That a value takes, its share of the scales left out.
    """

    pack: Callable[[Tensor], Packed]
    unpack: Callable[[Packed, torch.Size, torch.dtype], Tensor]
    bits: int


def _row_scale(weight: Tensor, largest: float) -> Tensor:
    """Give the step (out, 1) of each row, 1 for rows of zeros."""
    scale = weight.abs().amax(dim=1, keepdim=True) / largest
    return torch.where(scale == 0, 1.0, scale)


def _pack_int8(weight: Tensor) -> Packed:
    scale = _row_scale(weight, INT8_MAX)
    return Packed((weight / scale).round_().to(torch.int8), scale)


def _unpack_int8(packed: Packed, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return packed.values.to(dtype).mul_(packed.scale)


def _pack_fp8(weight: Tensor) -> Packed:
    scale = _row_scale(weight, FP8_MAX)
    values = (weight / scale).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return Packed(values.view(torch.uint8), scale)


def _unpack_fp8(packed: Packed, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return packed.values.view(torch.float8_e4m3fn).to(dtype).mul_(packed.scale)


def _pack_nf4(weight: Tensor) -> Packed:
    functional = bitsandbytes().functional
    values, state = functional.quantize_4bit(weight, blocksize=NF4_BLOCK, quant_type="nf4")
    return Packed(values, state.absmax)


def _unpack_nf4(packed: Packed, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    functional = bitsandbytes().functional
    state = functional.QuantState(
        packed.scale, shape=shape, dtype=dtype, blocksize=NF4_BLOCK, quant_type="nf4"
    )
    return functional.dequantize_4bit(packed.values, state)


# int8: 255 even steps a row (as LLM.int8's weights, Dettmers et al. 2022, section 2); fp8: e4m3 and
# a scale a row (Micikevicius et al. 2022); nf4: quantiles of a normal distribution, a scale for 64
# values (Dettmers et al. 2023, section 3)
KINDS = {
    "int8": Kind(_pack_int8, _unpack_int8, bits=8),
    "fp8": Kind(_pack_fp8, _unpack_fp8, bits=8),
    "nf4": Kind(_pack_nf4, _unpack_nf4, bits=4),
}
