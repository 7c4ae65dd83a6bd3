"""Section `hardware`: precision, threads and batch sizes that fit the machine."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.schema import choice, number


@dataclass(frozen=True)
class Hardware:
    """What the machine can do."""

    mixed_precision: str = choice("no", "no", "bf16", "fp16")  # of the trained forward pass
    gradient_checkpointing: bool = False  # recompute activations instead of keeping them
    compile: bool = False  # the trained network block by block, by torch.compile
    offload_blocks: int = number(0, at_least=0)  # of the frozen base, kept in CPU memory
    threads: int = number(2, at_least=1)  # CPU threads of torch, a process
    processes: int = number(1, at_least=1)  # that train together, over all nodes
    sharding: str = choice(
        "none", "none", "full"
    )  # full: a process holds its rows of weights, gradients, slots
    encode_batch_size: int = number(8, at_least=1)  # pictures or captions an encoder call
    encode_workers: str = choice("local", "local", "ray")  # who encodes: this process, or actors
    ray_address: str | None = None  # ray://host:port or auto; null: a cluster of this machine
    preflight: str = choice("refuse", "refuse", "warn")  # where a prediction exceeds the machine
    decode_workers: int = number(1, at_least=0)  # processes that open pictures; 0: none besides

    def __post_init__(self) -> None:
        """Refuse an address that nothing would use."""
        if self.ray_address is not None and self.encode_workers != "ray":
            raise ValueError(
                f"hardware.ray_address: {self.ray_address!r} given, but hardware.encode_workers is "
                f"{self.encode_workers!r}: set it to 'ray'"
            )
