"""What the pre-flight asks the trainer and what the trainer answers: sizes in bytes, as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MicroBatch:
    """The sizes of a micro-batch."""

    width: int  # of the target, pixels
    height: int
    size: int  # items
    references: Sequence[Sequence[int]] = ()  # width and height of each reference of an item

    @property
    def load(self) -> int:
        """Pixels that the network sees."""
        sides = [(self.width, self.height), *self.references]
        return self.size * sum(width * height for width, height in sides)


@dataclass(frozen=True)
class EncoderCalls:
    """The calls of the base's encoders that rows are missing of."""

    size: int  # items a call
    pictures: Sequence[Sequence[int]]  # widths and heights, the largest first
    has_texts: bool


@dataclass(frozen=True)
class Asked:
    """What a training is to be measured for."""

    params: str  # path of its params.yaml
    batches: Sequence[MicroBatch]  # in which it may come, the largest first
    lengths: Mapping[str, int]  # tokens of a text, by kind of text encoder
    records: str | None = None  # folder of the base's records; None: it has none yet, ...
    folder: str | None = None  # ... but lies there, folder or single file; or None: ...
    section: Mapping[str, Any] = field(default_factory=dict)  # ... the section `model` has sizes
    device_bytes: int | None = None  # memory that there is; None: this machine's
    live_batch: int | None = None  # pictures an encoder call while training; None: rows are stored
    has_probe: bool = True  # whether two steps are timed, if the base is here and they fit
    encoding: EncoderCalls | None = None  # to be timed likewise; None: no row is missing


@dataclass(frozen=True)
class Memory:
    """Where a process of the training has its bytes when it has the most."""

    weights: int  # of all networks, frozen ones too
    gradients: int
    activations: int  # all else that a step computes
    slots: int  # of the optimizer
    average: int  # of the weights, `training.ema`

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.activations + self.slots + self.average


@dataclass(frozen=True)
class Machine:
    """The memory of the machine on which a training runs."""

    device: str  # "cpu" or "cuda"
    name: str
    num_devices: int  # GPUs, or 1
    total: int  # of the device
    free: int  # of the device, now
    host_total: int
    host_free: int
    process: int  # of a process that has loaded Python and its libraries, and nothing else

    def room(self, processes: int) -> int:
        """Return how many bytes of tensors each of so many processes may have on its device."""
        if self.device == "cpu":
            return self.total // processes - self.process
        return self.total // -(-processes // self.num_devices)


@dataclass(frozen=True)
class Seconds:
    """How long parts of a training take."""

    micro_batches: Sequence[float]  # forward and backward, of each that was asked for
    validations: Sequence[float]  # forward alone, likewise
    optimizer: float  # a step, all else included


@dataclass(frozen=True)
class EncoderSeconds:
    """How long the base's encoders take."""

    pictures: Sequence[float]  # a call, of each size that was asked for
    texts: float  # a call; 0: none was asked for
    loading: float  # of those that were asked for


@dataclass(frozen=True)
class Remedy:
    """Settings with which less memory is needed."""

    settings: Mapping[str, Any]  # by their keys in params.yaml
    memory: Memory


@dataclass(frozen=True)
class Needs:
    """What a training needs."""

    memory: Memory
    machine: Machine
    num_parameters: int  # of all networks
    num_trainable: int
    checkpoint: Mapping[str, int]  # bytes of each file
    outcome: int  # bytes of what is trained, as it is kept
    is_adapter: bool  # whether that belongs into a base, ...
    is_controlnet: bool  # ... or beside one
    denoiser: int  # bytes of the base's denoiser
    away: int  # bytes of weights that wait in the CPU's memory
    text_row: int  # bytes of a caption's row in the store
    parameters: str  # digest of those of the training
    seconds: Seconds | None = None  # None: not probed
    encoding: EncoderSeconds | None = None  # the same
    remedies: Sequence[Remedy] = ()  # each with those before it, until it fits


def to_json(value: Asked | Needs) -> str:
    """Write one of the two as text."""
    return json.dumps(dataclasses.asdict(value))


def asked_from(text: str) -> Asked:
    """Read what `to_json` wrote."""
    values = json.loads(text)
    batches = [MicroBatch(**each) for each in values.pop("batches")]
    encoding = values.pop("encoding")
    return Asked(batches=batches, encoding=encoding and EncoderCalls(**encoding), **values)


def needs_from(text: str) -> Needs:
    """Read what `to_json` wrote."""
    values = json.loads(text)
    memory, machine = Memory(**values.pop("memory")), Machine(**values.pop("machine"))
    seconds, encoding = values.pop("seconds"), values.pop("encoding")
    remedies = [
        Remedy(each["settings"], Memory(**each["memory"])) for each in values.pop("remedies")
    ]
    return Needs(
        memory=memory,
        machine=machine,
        seconds=seconds and Seconds(**seconds),
        encoding=encoding and EncoderSeconds(**encoding),
        remedies=remedies,
        **values,
    )
