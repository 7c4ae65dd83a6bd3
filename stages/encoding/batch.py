"""Encoders in batches: of one fixed size on a CPU, of the size that fits on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from stages.rows.generation import TOLERANCE
from stages.rows.layout import Array

LARGEST_BATCH = 256  # items a call, however much memory the GPU has
LEAST_GAIN = 0.05  # of the time of an item: a doubled batch that gains less is not worth it
GPU_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 6e-2}  # as TOLERANCE, by dtype
CPU_ALLOCATOR = "DefaultCPUAllocator"  # names itself where torch finds no memory on a CPU

Item = TypeVar("Item")
PreparedItem = TypeVar("PreparedItem", contravariant=True)
Inputs: TypeAlias = npt.NDArray[Any]
Rows: TypeAlias = dict[str, Array]
Encode: TypeAlias = Callable[[Inputs], Rows]


def choose_device() -> str:
    """Return the kind of device to encode on, and keep float32 whole on a GPU."""
    if not torch.cuda.is_available():  # as accelerate chooses
        return "cpu"
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"


class Batches(Protocol):
    """How the items of one table go through an encoder."""

    @property
    def size(self) -> int:
        """Items a call, for now."""

    def next_size(self, left: int) -> int:
        """Say how many of the `left` items the next call takes."""

    def encode_inputs(self, inputs: Sequence[Inputs]) -> Rows:
        """Encode the inputs of that many items."""


class Encoder(Protocol[PreparedItem]):
    """What turns items into rows."""

    @property
    def prepare(self) -> Callable[[PreparedItem], Inputs]:
        """Make one item's inputs, of one shape for all items of a table; can be pickled."""

    @property
    def parts(self) -> dict[str, str | int]:
        """All that a row depends on besides its item and the generation, for `row_key`."""

    @property
    def tolerance(self) -> float:
        """What counts as rounding, see `generation`."""

    def batches(self) -> Batches:
        """Begin with the items of a table, whose inputs have one shape."""


@dataclass(frozen=True)
class FixedBatch(Generic[Item]):
    """An encoder at one batch size, so that a row's bits do not depend on its neighbours.

    Attributes:
        prepare: see `Encoder`.
        encode: turns the stacked inputs of exactly `size` items into their rows.
        size: items a call.
        threads: of torch; like `size` they change the bits.
        identity: what else of the encoder a row depends on: its weights, convention, dtype.
    """

    prepare: Callable[[Item], Inputs]
    encode: Encode
    size: int
    threads: int
    identity: Mapping[str, str]
    tolerance: float = TOLERANCE

    @property
    def parts(self) -> dict[str, str | int]:
        """Name what rows depend on, batch size and threads included."""
        return {**self.identity, "batch_size": self.size, "threads": self.threads}

    def batches(self) -> Batches:
        """Begin a table; no table differs from another."""
        return self

    def next_size(self, left: int) -> int:
        """Take the incomplete batch first: filling it up also checks the encoder."""
        return left % self.size or self.size

    def encode_inputs(self, inputs: Sequence[Inputs]) -> Rows:
        """Encode up to `size` inputs, the last repeated to fill the batch.

        Raises:
            ValueError: the repeated rows differ, so a row depends on its place in the batch; or
                there is too little memory.
        """
        last = len(inputs) - 1
        padded = np.stack([*inputs, *[inputs[last]] * (self.size - len(inputs))])
        try:
            rows = self.encode(padded)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise ValueError(
                f"hardware.encode_batch_size: {self.size} items of {_shape(inputs[0])} need more"
                " memory than there is: lower it (rows depend on it, so all of them are encoded"
                " again)"
            ) from None
        for values in rows.values():
            if any(values[last].tobytes() != copy.tobytes() for copy in values[last + 1 :]):
                raise ValueError(
                    "the encoder gives equal inputs different rows with"
                    f" hardware.encode_batch_size {self.size} and hardware.threads {self.threads}:"
                    " make the batch size 1 or a multiple of the threads"
                )
        return {name: values[: len(inputs)] for name, values in rows.items()}


@dataclass(frozen=True)
class GrowingBatch(Generic[Item]):
    """An encoder on a device where the batch size is no part of what a row is.

    Attributes:
        prepare: see `Encoder`.
        encode: turns the stacked inputs of any number of items into their rows, and waits for
            them.
        first: items of the first calls; from there the size doubles while that makes it faster.
        device: kind of device, part of the key: its rows are not a CPU's to the bit.
        identity: see `FixedBatch`.
        tolerance: see `Encoder`.
    """

    prepare: Callable[[Item], Inputs]
    encode: Encode
    first: int
    device: str
    identity: Mapping[str, str]
    tolerance: float

    @property
    def parts(self) -> dict[str, str | int]:
        """Name what rows depend on; neither batch size nor threads."""
        return {**self.identity, "device": self.device}

    def batches(self) -> Batches:
        """Begin a table, whose best size is not known yet."""
        return _Growing(self.encode, self.first)


class _Growing:
    """Doubles the batch size until memory or speed says stop; halves it when memory runs out."""

    def __init__(self, encode: Encode, first: int) -> None:
        self.encode, self.size = encode, first
        self._is_settled = False
        self._item_seconds = float("inf")  # at the size before
        self._is_warm = False  # the first call at a size allocates and chooses kernels

    def next_size(self, left: int) -> int:
        return min(left, self.size)

    def encode_inputs(self, inputs: Sequence[Inputs]) -> Rows:
        start = time.perf_counter()
        try:
            rows = self.encode(np.stack(inputs))
        except torch.OutOfMemoryError:
            rows = None  # goes on below, where the error no longer holds what was allocated
        if rows is None:
            return self._in_halves(inputs)
        self._learn(len(inputs), (time.perf_counter() - start) / len(inputs))
        return rows

    def _in_halves(self, inputs: Sequence[Inputs]) -> Rows:
        if len(inputs) == 1:
            raise ValueError(
                f"one item of {_shape(inputs[0])} needs more memory than the GPU has free: free"
                " some, set model.dtype to bfloat16, or lower data.resolution"
            )
        torch.cuda.empty_cache()
        self._is_settled = True
        middle = (len(inputs) + 1) // 2
        self.size = min(self.size, middle)
        halves = [self.encode_inputs(half) for half in (inputs[:middle], inputs[middle:])]
        return {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}

    def _learn(self, num_items: int, item_seconds: float) -> None:
        if self._is_settled or num_items != self.size:
            return
        if not self._is_warm:
            self._is_warm = True
        elif item_seconds > self._item_seconds * (1 - LEAST_GAIN):
            self.size //= 2
            self._is_settled = True
        else:
            self._item_seconds, self._is_warm = item_seconds, False
            self._is_settled = 2 * self.size > LARGEST_BATCH
            self.size *= 1 if self._is_settled else 2


def encoder_of(
    prepare: Callable[[Item], Inputs],
    encode: Encode,
    identity: Mapping[str, str],
    size: int,
    threads: int,
    device: str,
) -> Encoder[Item]:
    """Return the encoder for this kind of device; `identity` has the "dtype" of the rows."""
    if device == "cpu":
        return FixedBatch(prepare, encode, size, threads, identity)
    return GrowingBatch(prepare, encode, size, device, identity, GPU_TOLERANCE[identity["dtype"]])


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_ALLOCATOR in str(error)


def _shape(inputs: Inputs) -> str:
    return f"shape {tuple(inputs.shape)}"
