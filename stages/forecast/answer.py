"""Put together what a training needs: memory first, then remedies or a clock beside its parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from stages.forecast.base import base_of
from stages.forecast.encoding import time_encoders
from stages.forecast.machine import this_machine
from stages.forecast.memory import measure
from stages.forecast.probe import probe
from stages.forecast.remedies import remedies
from stages.forecast.start import refuse_other_checkpoint
from stages.launch import use_threads
from stages.needs import Asked, Machine, Needs
from stages.params.read import read
from stages.train.stage import Params, parameters_digest


def answer(asked: Asked) -> Needs:
    """Measure what is asked.

    Raises:
        ValueError: Such a training cannot be built, or goes on from another one's.
        FileNotFoundError: The base is not where it is said to be.
    """
    params = read(Params, Path(asked.params))
    use_threads(params.threads)
    machine = chosen(asked, params.processes)
    base = base_of(asked, params.family)
    if asked.records is not None:
        refuse_other_checkpoint(params)
    found = measure(params, base, asked)
    dtype: torch.dtype = getattr(torch, params.dtype)
    text = sum(torch.Size(shape).numel() for shape in found.rows.text.values())
    room = machine.room(params.processes)
    fits = found.memory.total <= room
    can_probe = asked.has_probe and asked.records is not None
    return Needs(
        memory=found.memory,
        machine=machine,
        num_parameters=found.num_parameters,
        num_trainable=found.num_trainable,
        checkpoint=found.checkpoint,
        outcome=found.outcome,
        is_adapter=found.is_adapter,
        is_controlnet=found.is_controlnet,
        denoiser=found.denoiser,
        away=found.away,
        text_row=dtype.itemsize * text,
        parameters=parameters_digest(params),
        seconds=probe(params, base, asked) if fits and can_probe else None,
        encoding=time_encoders(params, asked, machine.free) if asked.has_probe else None,
        remedies=[] if fits else remedies(params, base, asked, room),
    )


def chosen(asked: Asked, processes: int) -> Machine:
    """Return this machine, or one whose devices have the memory that is asked about."""
    machine = this_machine()
    if (num_bytes := asked.device_bytes) is None:
        return machine
    return replace(
        machine, device="given", name="", num_devices=processes, total=num_bytes, free=num_bytes
    )
