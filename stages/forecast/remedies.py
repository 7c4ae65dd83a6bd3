"""What to turn on where a training does not fit, and how much it then needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stages.forecast.base import Base
from stages.forecast.memory import measure
from stages.needs import Asked, Remedy
from stages.train.stage import Params

Change = Callable[[Params], Mapping[str, Any]]  # by keys of params.yaml; none: it is so already
LEAST_GAIN = 0.02  # of the memory: a change that saves less is not worth saying


def checkpointing(params: Params) -> Mapping[str, Any]:
    """Compute activations twice instead of keeping them."""
    return {} if params.gradient_checkpointing else {"hardware.gradient_checkpointing": True}


def single_items(params: Params) -> Mapping[str, Any]:
    """Take one picture at a time, and as many a step as before."""
    training = params.training
    if training.batch_size == 1 and not training.batch_sizes:
        return {}
    num = training.gradient_accumulation * training.batch_size
    accumulated = {} if training.optimizer.fused_backward else {"gradient_accumulation": num}
    values: dict[str, Any] = {"batch_size": 1, **accumulated}
    values |= {"batch_sizes": []} if training.batch_sizes else {}
    return {f"training.{name}": value for name, value in values.items()}


def half_precision(params: Params) -> Mapping[str, Any]:
    """Keep weights in 2 bytes; those that learn by steps that are rounded at random."""
    if params.dtype != "float32":
        return {}
    dtype = {"model.dtype": "bfloat16"}
    can_round = params.training.optimizer.type not in ("prodigy",)
    if learns_by_adapters(params) or not can_round:
        return dtype
    return dtype | {"training.optimizer.rounding": "stochastic"}


def packed_base(params: Params) -> Mapping[str, Any]:
    """Keep a frozen base in 8 bits."""
    is_frozen = learns_by_adapters(params) or params.training.learns == "controlnet"
    if params.training.base_quantization is not None or not is_frozen:
        return {}
    return {"training.base_quantization": "int8"}


def small_slots(params: Params) -> Mapping[str, Any]:
    """Remember a matrix by its rows and columns."""
    if params.training.optimizer.type == "adafactor":
        return {}
    return {"training.optimizer.type": "adafactor"}


def fused_steps(params: Params) -> Mapping[str, Any]:
    """Step in the backward pass, where a step is one micro-batch in one process."""
    training = params.training
    is_possible = training.optimizer.type != "prodigy" and params.processes == 1
    is_possible &= params.mixed_precision != "fp16" and not learns_by_adapters(params)
    if training.optimizer.fused_backward or not is_possible:
        return {}
    values = {"gradient_accumulation": 1, "optimizer.fused_backward": True, "max_grad_norm": None}
    return {f"training.{name}": value for name, value in values.items()}


def adapters(params: Params) -> Mapping[str, Any]:
    """Train adapters in place of all weights."""
    training = params.training
    if training.method != "full_finetune" or training.editing == "fill":
        return {}
    return {"training.method": "lora", "training.optimizer.rounding": "none"}


CHANGES: Sequence[Change] = (  # those that cost the least first
    checkpointing,
    single_items,
    half_precision,
    packed_base,
    small_slots,
    fused_steps,
    adapters,
)


def remedies(params: Params, base: Base, asked: Asked, limit: int) -> list[Remedy]:
    """Change one thing after another until the training fits into `limit` bytes, or none is left.

    Changes that save next to nothing are left out.
    """
    found: list[Remedy] = []
    least = measure(params, base, asked).memory.total
    for change in CHANGES:
        if not (settings := change(params)):
            continue
        tried, tried_asked = changed_by(params, settings), asked
        if change is single_items:
            batches = [replace(each, size=1) for each in asked.batches]
            batches = sorted(batches, key=lambda batch: batch.load, reverse=True)
            tried_asked = replace(asked, batches=batches)
        memory = measure(tried, base, tried_asked).memory
        if memory.total > (1 - LEAST_GAIN) * least:
            continue
        params, asked, least = tried, tried_asked, memory.total
        found.append(Remedy(settings, memory))
        if least <= limit:
            break
    return found


def learns_by_adapters(params: Params) -> bool:
    """Tell whether the base's own weights stay as they are."""
    return params.training.learns == "lora" or params.training.is_control_lora


def changed_by(params: Params, settings: Mapping[str, Any]) -> Params:
    """Return the parameters with these keys set."""
    for key, value in settings.items():
        section, *rest = key.split(".")
        if section == "training":
            params = replace(params, training=changed(params.training, rest, value))
        else:  # keys of other sections are fields of their own
            params = replace(params, **{rest[-1]: value})
    return params


def changed(section: Any, names: Sequence[str], value: Any) -> Any:
    """Return a section with one key below it set."""
    first, *rest = names
    inner = changed(getattr(section, first), rest, value) if rest else value
    return replace(section, **{first: inner})
