"""The weights that schedule-free optimizers keep, read off their slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def kept_weights(optimizer: Any, trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor] | None:
    """Return the averages x of Defazio et al. 2024, or None where weights are kept as they are.

    Trained are y = (1 - beta1) z + beta1 x, so that x = y + (1 - 1 / beta1) (z - y). The library
    changes y to x in place and back, which changes the last bits of y whenever one looks.
    """
    groups = [group for group in optimizer.param_groups if "train_mode" in group]
    if not groups:
        return None
    beta1 = {id(p): group["betas"][0] for group in groups for p in group["params"]}
    return {
        name: p.float().lerp(slots["z"].float(), 1 - 1 / beta1[id(p)])
        if (slots := optimizer.state.get(p))
        else p.float()
        for name, p in trainable.items()
    }
