"""Make the optimizer of a training: its groups, its algorithm, and how it steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stages.params.optimizer import Optimizer
from stages.train.optimizers.algorithms import OPTIMIZERS
from stages.train.optimizers.per_parameter import PerParameter
from stages.train.patterns import first_matches

IN_BLOCK = re.compile(r"(^|\.)\d+\.")  # names of weights inside numbered blocks


def create_optimizer(
    trainable: Mapping[str, nn.Parameter], settings: Optimizer, seed: int
) -> torch.optim.Optimizer:
    """Make the optimizer of named parameters.

    Raises:
        ValueError: A pattern of a group matches no name, no weight is there to be rounded, or the
            backward pass is to step in one of several processes.
    """
    if settings.fused_backward and is_one_of_several():
        raise ValueError(
            "training.optimizer.fused_backward steps before gradients are averaged over processes: "
            "set it to false, or train in one process"
        )
    return optimizer_of(parameter_groups(trainable, settings), settings, seed)


def optimizer_of(
    groups: list[dict[str, Any]], settings: Optimizer, seed: int
) -> torch.optim.Optimizer:
    """Make the optimizer of the groups that `parameter_groups` gave."""
    inner = OPTIMIZERS[settings.type](groups, settings)
    if settings.rounding == "none" and not settings.fused_backward:
        return inner
    return PerParameter(inner, settings.rounding, seed, settings.fused_backward)


def is_one_of_several() -> bool:
    """Tell whether other processes train the same weights."""
    distributed = torch.distributed
    is_started = distributed.is_available() and distributed.is_initialized()
    return is_started and distributed.get_world_size() > 1


def parameter_groups(
    trainable: Mapping[str, nn.Parameter], settings: Optimizer
) -> list[dict[str, Any]]:
    """Return groups of one rate; a parameter belongs to the first group whose pattern it matches.

    Raises:
        ValueError: A pattern matches no name, or no weight is there to be rounded.
    """
    if settings.rounding != "none" and all(p.dtype != torch.bfloat16 for p in trainable.values()):
        raise ValueError(
            f"training.optimizer.rounding: {settings.rounding!r} given, but no weight that learns "
            "is bfloat16: set it to 'none'"
        )
    patterns = [group.match for group in settings.groups]
    chosen = first_matches(patterns, list(trainable), "training.optimizer.groups")
    scales = [*(group.lr_scale for group in settings.groups), 1.0]
    members: list[dict[str, nn.Parameter]] = [{} for _ in scales]
    for (name, p), place in zip(trainable.items(), chosen, strict=True):
        members[len(patterns) if place is None else place][name] = p
    return [_group(of, scale, settings) for of, scale in zip(members, scales, strict=True) if of]


def _group(
    members: Mapping[str, nn.Parameter], scale: float, settings: Optimizer
) -> dict[str, Any]:
    group: dict[str, Any] = {"params": list(members.values()), "lr_scale": scale}
    if settings.type == "muon":
        group["hidden"] = [p for name, p in members.items() if IN_BLOCK.search(name)]
    return group
