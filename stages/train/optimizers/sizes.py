"""How many bytes an optimizer will remember of each parameter, before it has stepped once.

No table says it: the optimizer itself steps small parameters of the same dtypes, ranks and groups,
and what it has then is scaled up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from stages.params.optimizer import Optimizer
from stages.train.optimizers.create import optimizer_of, parameter_groups

MOST_VALUES = 1 << 14  # of a small parameter; larger ones are halved along their longest side
Shape: TypeAlias = tuple[int, ...]
Kind: TypeAlias = tuple[int, Shape, torch.dtype, bool]  # group, shape, dtype, whether `hidden`


def slot_bytes(trainable: Mapping[str, nn.Parameter], settings: Optimizer) -> int:
    """Return the bytes of all slots of these parameters, which may be fake or on meta.

    Raises:
        ValueError: As `create_optimizer`.
    """
    groups = parameter_groups(trainable, settings)
    kinds = Counter(
        _kind(index, group, p) for index, group in enumerate(groups) for p in group["params"]
    )
    with unset_fake_temporarily():  # the twins have values, whatever `trainable` has
        twins = {kind: _twins(kind) for kind in kinds}
        optimizer = optimizer_of(_small(groups, twins), settings, seed=0)
        for pair in twins.values():
            for twin in pair:
                twin.grad = torch.full_like(twin, 1e-3)
        optimizer.step()
    uses = Counter(
        id(slot) for pair in twins.values() for p in pair for slot in _slots(optimizer, p)
    )
    total, shared = 0, {}
    for kind, (twin, _) in twins.items():
        for slot in _slots(optimizer, twin):
            if uses[id(slot)] > 1:  # such as a table of 8-bit values, one for all
                shared[id(slot)] = slot.nbytes
            else:
                total += kinds[kind] * _scaled(slot, twin.shape, kind[1])
    return total + sum(shared.values())


def _kind(index: int, group: Mapping[str, Any], p: nn.Parameter) -> Kind:
    return index, tuple(p.shape), p.dtype, any(p is each for each in group.get("hidden", ()))


def _twins(kind: Kind) -> tuple[nn.Parameter, nn.Parameter]:
    """Make two small parameters of a kind, so that what parameters share is seen to be shared."""
    _, shape, dtype, _ = kind
    small = list(shape)
    while torch.Size(small).numel() > MOST_VALUES:
        longest = small.index(max(small))
        small[longest] = -(-small[longest] // 2)
    values = torch.ones(small, dtype=dtype)
    return nn.Parameter(values), nn.Parameter(values.clone())


def _small(
    groups: list[dict[str, Any]], twins: Mapping[Kind, tuple[nn.Parameter, nn.Parameter]]
) -> list[dict[str, Any]]:
    """Return the groups with the twins of their parameters."""
    made = []
    for index, group in enumerate(groups):
        own = {kind: pair for kind, pair in twins.items() if kind[0] == index}
        small = {**group, "params": [p for pair in own.values() for p in pair]}
        if "hidden" in group:
            small["hidden"] = [p for kind, pair in own.items() if kind[3] for p in pair]
        made.append(small)
    return made


def _slots(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> list[Tensor]:
    return [slot for slot in optimizer.state.get(p, {}).values() if isinstance(slot, Tensor)]


def _scaled(slot: Tensor, small: Shape, shape: Shape) -> int:
    """Return the bytes of a small parameter's slot in a parameter of the full shape.

    A slot has a parameter's sides, some of them perhaps 1; or one number; or it is flat, with as
    many values a weight.
    """
    if slot.numel() == 1:
        return slot.nbytes
    if slot.ndim == len(small):
        factors = [
            full / side if side == own else 1.0
            for own, side, full in zip(slot.shape, small, shape, strict=True)
        ]
        return round(slot.nbytes * math.prod(factors))
    return round(slot.nbytes * torch.Size(shape).numel() / torch.Size(small).numel())
