"""A frozen linear layer with a packed weight, through which gradients pass to what is before it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modelzoo.quantised.kinds import KINDS, Packed


class QuantisedLinear(nn.Linear):
    """x W + b, where W is unpacked whenever it is used and kept by nothing.

    It takes the place of a layer and its bias; `take` gives it the weight. To whom it is a plain
    linear layer, such as peft, `weight` is W unpacked: a new tensor each time it is read, so that
    writing to it changes nothing.
    """

    values: Tensor
    scale: Tensor

    def __init__(self, like: nn.Linear, kind: str) -> None:
        """Prepare a layer without a weight.

        Args:
            like: Whose shape, dtype and bias it has; it may be on meta.
            kind: A name of `KINDS`.
        """
        super(nn.Linear, self).__init__()  # not nn.Linear's, which makes a weight
        self.in_features, self.out_features = like.in_features, like.out_features
        self.dtype, self.kind = like.weight.dtype, kind
        self.bias = like.bias
        self.register_buffer("values", None)
        self.register_buffer("scale", None)

    @property
    def shape(self) -> torch.Size:
        """The shape (out, in) of W."""
        return torch.Size((self.out_features, self.in_features))

    @torch.no_grad()
    def take(self, weight: Tensor) -> None:
        """Pack a weight (out, in) of any real dtype, and keep nothing else of it."""
        self.values, self.scale = KINDS[self.kind].pack(weight.float())

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """W (out, in) in the dtype of the layer that this one stands for."""
        return self.unpacked(self.values, self.scale, self.dtype)

    def unpacked(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Unpack W (out, in) into a dtype."""
        return KINDS[self.kind].unpack(Packed(values, scale), self.shape, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        device = input.device.type
        if torch.is_autocast_enabled(device):
            input = input.to(torch.get_autocast_dtype(device))
        return _Product.apply(input, self.values, self.scale, self.bias, self)

    def extra_repr(self) -> str:
        """Say the kind too."""
        return f"{super().extra_repr()}, kind={self.kind}"


class _Product(torch.autograd.Function):
    """A linear layer that keeps the packed weight for its backward pass, not the unpacked one."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None, layer: Any
    ) -> Tensor:
        ctx.save_for_backward(values, scale)
        ctx.layer = layer
        weight = layer.unpacked(values, scale, x.dtype)
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight = ctx.layer.unpacked(*ctx.saved_tensors, grad.dtype)
        of_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
        return grad @ weight, None, None, of_bias, None
