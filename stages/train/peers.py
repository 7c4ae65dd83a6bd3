"""The processes of one training: what they add up, agree on and wait for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# The first process may encode missing rows while the others wait; a dead one is noticed at once.
PATIENCE = timedelta(hours=12)
BUCKET_BYTES = 1 << 26  # of gradients that travel together


class PeerLostError(ValueError):
    """Another process of this training is gone, which says by itself why."""


class Peers:
    """This process among those of its training; alone, nothing is sent.

    Gradients are added up here and not by DistributedDataParallel, which waits forever for a
    process that has no micro-batch in a step, and knows the parameters of one module alone.
    """

    def __init__(self, rank: int = 0, num: int = 1, in_step: bool = False) -> None:
        """Name this process.

        Args:
            rank: Of this process, in [0, num).
            num: Of all.
            in_step: None can compute without the others, because each has a part of the weights.
        """
        self.rank, self.num, self.in_step = rank, num, in_step

    @classmethod
    def meet(cls, num: int, in_step: bool = False) -> Peers:
        """Wait for the other processes of `hardware.processes`, as torchrun's variables name them.

        Raises:
            ValueError: Another number of processes was started, or a node has fewer GPUs than
                processes.
        """
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != num:
            raise ValueError(
                f"params.yaml: hardware.processes: {num} given, but a launcher started {started}: "
                "make them equal, counted over all nodes"
            )
        if num == 1:
            return cls()
        if not dist.is_initialized():
            has_gpus = torch.cuda.is_available()
            if has_gpus:
                _refuse_too_few_gpus(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpus else "gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), num, in_step)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def dealt(self, num_pieces: int) -> Iterator[tuple[int, bool]]:
        """Yield the places of this process's pieces of work, and whether what comes out counts.

        Of processes in step, all have equally many: where none is left for one, it does the last
        one as well, and that does not count.
        """
        for place in range(self.rank, num_pieces, self.num):
            yield place, True
        if self.in_step and self.rank >= num_pieces % self.num > 0:
            yield num_pieces - 1, False

    def add(self, values: Tensor) -> Tensor:
        """Return the sum of each value over the processes, in place."""
        if self.num > 1:
            with self.noticing():
                dist.all_reduce(values)
        return values

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give each parameter the sum of its gradients; without any it keeps none."""
        if self.num == 1:
            return
        every = list(parameters)
        has_gradient = self.add(torch.tensor([p.grad is not None for p in every]).int())
        learning = [p for p, count in zip(every, has_gradient.tolist(), strict=True) if count]
        for p in learning:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        with torch.no_grad():
            for bucket in _buckets(learning):
                gradients = [p.grad for p in bucket if p.grad is not None]
                total = self.add(torch.cat([gradient.flatten() for gradient in gradients]))
                parts = total.split([gradient.numel() for gradient in gradients])
                for gradient, part in zip(gradients, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))

    def start_alike(self, parameters: Iterable[Tensor]) -> None:
        """Give all processes the first one's values."""
        if self.num > 1:
            with self.noticing(), torch.no_grad():
                for p in parameters:
                    dist.broadcast(p.detach(), 0)

    def highest(self, value: int) -> int:
        """Return the highest value that a process has; this never waits for a GPU."""
        if self.num == 1:
            return value
        shared = torch.tensor(value)
        with self.noticing():
            dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def told(self, value: Any) -> Any:
        """Return the first process's value."""
        if self.num == 1:
            return value
        shared = [value]
        with self.noticing():
            dist.broadcast_object_list(shared, 0, device=torch.device("cpu"))
        return shared[0]

    @contextmanager
    def first(self) -> Iterator[None]:
        """Run the body in the first process, and only then in the others."""
        if not self.is_first:
            self.highest(0)
        yield
        if self.is_first:
            self.highest(0)

    def leave(self) -> None:
        """Wait until all are done, and part."""
        if self.num > 1:
            self.highest(0)
            dist.destroy_process_group()

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Say so where what is sent between processes fails because one is gone."""
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Say so likewise where processes in step compute; an error of the model passes."""
        try:
            yield
        except RuntimeError as error:
            if self.in_step and (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise self._lost(error) from error
            raise

    def _lost(self, error: RuntimeError) -> PeerLostError:
        return PeerLostError(
            f"process {self.rank} of {self.num} lost another one of this training "
            f"({_first_sentence(error)}): see what that one said, and run again to resume"
        )


def _refuse_too_few_gpus(local_rank: int) -> None:
    """Hold the processes of a node to its GPUs; accelerate would give one to two of them."""
    if local_rank >= (num := torch.cuda.device_count()):
        raise ValueError(
            f"params.yaml: hardware.processes: this node was to start process {local_rank + 1}, "
            f"but it has {num} GPUs: lower hardware.processes (with torchrun --nproc-per-node)"
        )


def _first_sentence(error: RuntimeError) -> str:
    return str(error).splitlines()[0].partition(". ")[0]


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Cut parameters into runs of one dtype and device, of about BUCKET_BYTES."""
    bucket: list[nn.Parameter] = []
    size = 0
    for p in parameters:
        is_other = bucket and (p.dtype, p.device) != (bucket[0].dtype, bucket[0].device)
        if is_other or (bucket and size + p.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(p)
        size += p.nbytes
    if bucket:
        yield bucket
