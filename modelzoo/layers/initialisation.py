"""How untrained weights are drawn."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def init_weights(
    network: nn.Module, generator: torch.Generator, zero: Iterable[nn.Module] = ()
) -> None:
    """Fill all parameters in the order of the modules, in place.

    Linear layers and convolutions are normal with deviation 1 / sqrt(fan in), which keeps the
    variance behind a norm, also where several layers are fused into one matrix; biases are zero and
    norms one. The modules in `zero` are zero: last projections, and the modulations of adaLN-zero
    (Peebles and Xie 2022, section 3.2), so that blocks begin as the identity.
    """
    zeroed = set(zero)
    for module in network.modules():
        parameters = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear | nn.Conv2d):
            std = 0.0 if module in zeroed else module.weight[0].numel() ** -0.5
            module.weight.normal_(0, std, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm | nn.GroupNorm):
            for name, parameter in parameters.items():
                parameter.fill_(1.0 if name == "weight" else 0.0)
        elif parameters:
            raise TypeError(f"{type(module).__name__} has parameters and no known initialisation")
