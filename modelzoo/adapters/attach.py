"""Let a plain network compute with pairs of a LoRA beside its weights, which stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from modelzoo.adapters.pairs import Pair


def attach(network: nn.Module, pairs: Mapping[str, Pair]) -> None:
    """Add to each named layer's output what its pair adds: (W + up @ down) x, computed in float32.

    With DoRA each row of W + up @ down has a learned length (Liu et al. 2024, eq. 5).
    """
    for name, pair in pairs.items():
        network.get_submodule(name).register_forward_hook(_Added(pair))


class _Added:
    """A forward hook of a linear layer or a convolution."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def __call__(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        down, up, length = self.pair
        x = inputs[0].float()
        if isinstance(layer, nn.Conv2d):
            inner = F.conv2d(x, down.to(x), None, layer.stride, layer.padding, layer.dilation)
            added = F.conv2d(inner, up.to(x))
        else:
            added = F.linear(F.linear(x, down.to(x)), up.to(x))
        if length is None:
            return (output.float() + added).to(output.dtype)
        weight = layer.weight.float().flatten(1) + up.to(x).flatten(1) @ down.to(x).flatten(1)
        share = length.to(x) / weight.norm(dim=1)
        trailing = (1, 1) if isinstance(layer, nn.Conv2d) else ()
        share = share.view(-1, *trailing)
        bias = 0.0 if layer.bias is None else layer.bias.float().view(-1, *trailing)
        return (share * (output.float() - bias + added) + bias).to(output.dtype)
