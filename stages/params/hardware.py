"""Section `hardware`: precision, threads and batch sizes that fit the machine."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.schema import choice, number


@dataclass(frozen=True)
class Hardware:
    """What the machine can do; all of it can change the bits of a result."""

    mixed_precision: str = choice("no", "no", "bf16", "fp16")  # of the trained forward pass
    gradient_checkpointing: bool = False  # recompute activations instead of keeping them
    threads: int = number(2, at_least=1)  # CPU threads of torch
    encode_batch_size: int = number(8, at_least=1)  # pictures or captions an encoder call
