"""What an optimizer remembers, as tensors and plain numbers of a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Numbers = dict[str, Any]


def slot_tensors(optimizer: Any, trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the tensors by "parameter.slot"; one that several slots share is there once."""
    return {name: value for name, value, first in _tensors(optimizer, trainable) if name == first}


def slot_numbers(optimizer: Any, trainable: Mapping[str, nn.Parameter]) -> Numbers:
    """Return all else that changes from step to step: of parameters and of groups."""
    return {
        "slots": {name: _plain(optimizer.state.get(p, {})) for name, p in trainable.items()},
        "groups": [_plain(group) for group in optimizer.param_groups],
        "shared": {
            name: first for name, _, first in _tensors(optimizer, trainable) if name != first
        },
    }


def load_slots(
    optimizer: Any,
    trainable: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    numbers: Numbers,
) -> None:
    """Take on what `slot_tensors` and `slot_numbers` gave, in the very dtypes they had.

    torch's own loading would cast every slot to its parameter's dtype.

    Raises:
        KeyError: The tensors are those of other parameters.
    """
    fused = {id(p) for g in optimizer.param_groups if g.get("fused") for p in g["params"]}
    state: dict[str, dict[str, Any]] = {name: dict(numbers["slots"][name]) for name in trainable}
    shared = {name: tensors[first] for name, first in numbers["shared"].items()}
    for full, value in {**tensors, **shared}.items():
        name, _, slot = full.rpartition(".")
        p = trainable[name]
        device = p.device if slot != "step" or id(p) in fused else torch.device("cpu")
        state[name][slot] = value.to(device, copy=True)  # out of the mapped file
    for name, p in trainable.items():
        if state[name]:
            optimizer.state[p] = state[name]
    for group, plain in zip(optimizer.param_groups, numbers["groups"], strict=True):
        group.update(plain)


def _tensors(
    optimizer: Any, trainable: Mapping[str, nn.Parameter]
) -> list[tuple[str, Tensor, str]]:
    """List (name, tensor, the first name of that tensor)."""
    found: list[tuple[str, Tensor, str]] = []
    firsts: dict[int, str] = {}
    for name, p in trainable.items():
        for slot, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                full = f"{name}.{slot}"
                found.append((full, value, firsts.setdefault(id(value), full)))
    return found


def _plain(values: Mapping[str, Any]) -> Numbers:
    return {key: value for key, value in values.items() if isinstance(value, int | float)}
