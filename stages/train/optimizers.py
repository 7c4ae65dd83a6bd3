"""Optimizers by their name in `training.optimizer.type`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from stages.params.optimizer import Optimizer


def adamw(parameters: Iterable[nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); fused: one kernel a tensor, on CPU too."""
    return torch.optim.AdamW(
        parameters,
        lr=0.0,  # the plan sets the rate of each step
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


Create = Callable[[Iterable[nn.Parameter], Optimizer], torch.optim.Optimizer]

OPTIMIZERS: Mapping[str, Create] = {"adamw": adamw}
