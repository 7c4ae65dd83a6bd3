"""Frozen weights of some blocks wait in CPU memory and come to the GPU just before they are used.

accelerate's AlignDevicesHook, put on a block, takes what learns in it away too, whose gradients are
then lost, and leaves weights on the GPU where a checkpointed block is recomputed: that ends by an
exception, which its wrapper of `forward` does not see. It brings nothing ahead of time. Hence these
hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stages.train.model import Model


def offload_blocks(model: Model, count: int, device: torch.device) -> None:
    """Offload the frozen weights of `count` blocks of the denoiser, evenly spread over it.

    Call it before the network is moved to `device`, and checkpoint the blocks: a block that keeps
    its activations for the backward pass keeps its weights too.

    Raises:
        ValueError: There is no GPU, or there are fewer blocks.
    """
    blocks = model.denoiser.blocks()
    refuse_what_cannot_wait(count, len(blocks), device.type)
    Offloaded(spread(blocks, count), device)


def refuse_what_cannot_wait(count: int, num_blocks: int, device_type: str) -> None:
    """Hold `hardware.offload_blocks` to the device and to the base.

    Raises:
        ValueError: There is no GPU, or there are fewer blocks.
    """
    if device_type != "cuda":
        raise ValueError(
            f"params.yaml: hardware.offload_blocks: {count} given, but there is no GPU whose "
            "memory this would save: set 0"
        )
    if count > num_blocks:
        raise ValueError(
            f"params.yaml: hardware.offload_blocks: {count} given, but the base has {num_blocks} "
            f"blocks: set at most {num_blocks}"
        )


def spread(blocks: Sequence[nn.Module], count: int) -> list[nn.Module]:
    """Choose `count` blocks with as many between one and the next, which hide the transfers."""
    return [blocks[place * len(blocks) // count] for place in range(count)]


class Offloaded:
    """Blocks, in the order in which they run, whose frozen weights are elsewhere between calls.

    Each call of a block, in the forward pass or to recompute it in the backward pass, brings its
    weights and starts to bring those of the block that follows in this direction. At most two
    blocks' weights are on the device at once, and what the backward pass of one still holds.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.weights = [frozen_weights(block) for block in blocks]
        self.homes = [[self._home(weight.away) for weight in of] for of in self.weights]
        self.ahead: dict[int, list[Tensor]] = {}  # brought before they are needed
        self.last = -1  # block that was called
        for place, block in enumerate(blocks):
            for weight in self.weights[place]:
                weight.away.data = torch.empty(0, dtype=weight.away.dtype)  # `home` has its own
            block.register_forward_pre_hook(partial(self._bring, place))
            block.register_forward_hook(partial(self._put_away, place), always_call=True)

    def _home(self, weight: Tensor) -> Tensor:
        home = weight.detach()
        return home if self.stream is None else home.cpu().pin_memory()

    def _bring(self, place: int, block: nn.Module, inputs: Any) -> None:
        tensors = self.ahead.pop(place, None) or self._fetch(place)
        if self.stream is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_stream(self.stream)
            for tensor in tensors:
                tensor.record_stream(now)
        for weight, tensor in zip(self.weights[place], tensors, strict=True):
            weight.put(tensor)
        follower = place + 1 if place > self.last or place == 0 else place - 1
        if follower < len(self.weights) and follower not in self.ahead:
            self.ahead[follower] = self._fetch(follower)
        self.last = place

    def _put_away(self, place: int, block: nn.Module, *call: Any) -> None:
        for weight in self.weights[place]:
            weight.put_away()

    def _fetch(self, place: int) -> list[Tensor]:
        if self.stream is None:
            return [home.to(self.device, copy=True) for home in self.homes[place]]
        with torch.cuda.stream(self.stream):
            return [home.to(self.device, non_blocking=True) for home in self.homes[place]]


class Weight(NamedTuple):
    """Where a module has a weight, and what stands there, empty, while it is away.

    What a backward pass keeps is the tensor itself, so each time another one is put there.
    """

    place: dict[str, Any]  # the module's parameters, or its buffers where a weight is packed
    name: str
    away: Tensor

    def put(self, tensor: Tensor) -> None:
        """Let the module compute with `tensor`."""
        is_parameter = isinstance(self.away, nn.Parameter)
        self.place[self.name] = nn.Parameter(tensor, False) if is_parameter else tensor

    def put_away(self) -> None:
        """Let the module compute with nothing."""
        self.place[self.name] = self.away


def frozen_weights(block: nn.Module) -> list[Weight]:
    """List the weights of a block that do not learn."""
    return [
        Weight(place, name, tensor)
        for module in block.modules()
        for place in (module._parameters, module._buffers)
        for name, tensor in place.items()
        if tensor is not None and not tensor.requires_grad
    ]
