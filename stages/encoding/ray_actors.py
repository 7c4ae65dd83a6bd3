"""Encode on a Ray cluster: actors that each load the encoder once and add their rows themselves.

Rows go into the table by its own insert-only merge, which any number of writers may use at once.
(lance-ray commits the fragments of its writers by appending, which would double a row that two
writers, or a retried task, encoded.)
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Generic

import torch

from stages.encoding.batch import Batches, Encoder, Inputs, Item
from stages.encoding.missing import Wanted, encode_table
from stages.encoding.ray_cluster import count_room, open_cluster
from stages.rows.generation import Generation, summary
from stages.rows.table import RowTable

MAX_ATTEMPTS = 3  # at a task, each with an actor that died
TASK_BATCHES = 4  # what a dying actor can lose, at most
PATIENCE_SECONDS = 600.0  # without any news from the cluster


@dataclass(frozen=True)
class Probe:
    """What each actor has to encode alike before it may add rows."""

    inputs: Inputs
    generation: Generation


@dataclass(frozen=True)
class RayActors(Generic[Item]):
    """Actors of a cluster encode.

    Attributes:
        load: makes the encoder; can be pickled.
        probe: see `Probe`.
        address: of a cluster; None starts one on this machine, for as long as it takes.
        threads: of torch, and CPU cores, an actor.
        gpus: an actor.
        decode_workers: threads of an actor that prepare items, at least one.
        batch_size: items of a full batch.
    """

    load: Callable[[], Encoder[Item]]
    probe: Probe
    address: str | None
    threads: int
    gpus: int
    decode_workers: int
    batch_size: int

    def encode(self, missing: Sequence[Wanted[Item]], done: Callable[[int], object]) -> None:
        """See `missing.Work`.

        Raises:
            ValueError: Ray is not installed, the cluster is too small or cannot be reached, an
                item cannot be prepared, or a task's actors died MAX_ATTEMPTS times.
        """
        with open_cluster(self.address, self.threads) as ray:
            room = count_room(ray, self.threads, self.gpus)
            tasks = _tasks(missing, self.batch_size, room)
            _Round(ray, self, min(room, len(tasks)), tasks, done).run()


@dataclass(frozen=True)
class Task(Generic[Item]):
    """Rows that one call of an actor adds."""

    wanted: Wanted[Item]
    attempt: int = 1


class Actor(Generic[Item]):
    """Lives in a process of the cluster."""

    def begin(self, work: RayActors[Item], folder: str) -> None:
        """Load the encoder, and make sure that it is the one of the stage that asks.

        Raises:
            ValueError: the node does not see the stage's files, or encodes otherwise.
        """
        node = socket.gethostname()
        if not Path(folder).is_dir():
            raise ValueError(
                f"the node {node} has no folder {folder}: hardware.encode_workers 'ray' needs the"
                " repository, the pictures and the store at the same place on all nodes"
            )
        os.chdir(folder)
        torch.set_num_threads(work.threads)
        self._encoder = work.load()
        self._batches: dict[str, Batches] = {}
        self._pool = ThreadPoolExecutor(max(1, work.decode_workers), "read-ahead")
        row = self._encoder.batches().encode_inputs([work.probe.inputs])
        if not work.probe.generation.gave(summary(row), self._encoder.tolerance):
            raise ValueError(
                f"the encoder of the node {node} gives other values than this machine's: install"
                " the same versions there"
            )

    def encode(self, wanted: Wanted[Item]) -> None:
        """Add those of the rows that are still missing."""
        # a table is opened where it is used: the handle of another process is of no use here
        table = RowTable(wanted.table.uri, wanted.table.columns)
        lacking = replace(wanted, table=table).missing()
        batches = self._batches.setdefault(table.uri, self._encoder.batches())
        encode_table(lacking, self._encoder.prepare, batches, self._pool, lambda size: None)


class _Round(Generic[Item]):
    """One distribution of tasks over actors, some of which may die."""

    def __init__(
        self,
        ray: ModuleType,
        work: RayActors[Item],
        num_actors: int,
        tasks: Sequence[Task[Item]],
        done: Callable[[int], object],
    ) -> None:
        self._ray, self._done = ray, done
        self._waiting = deque(tasks)
        self._num_left = len(tasks)
        self._num_spare = MAX_ATTEMPTS * num_actors  # actors that may be started for dead ones
        self._kind = ray.remote(Actor).options(num_cpus=work.threads, num_gpus=work.gpus)
        self._begin = (ray.put(work), os.getcwd())
        self._num_actors = num_actors
        self._calls: dict[Any, tuple[Any, Task[Item] | None]] = {}  # a call: its actor and task
        self._idle: list[Any] = []  # actors

    def run(self) -> None:
        """Let the actors do all tasks."""
        for _ in range(self._num_actors):
            self._start_actor()
        while self._num_left:
            ended, _ = self._ray.wait(list(self._calls), timeout=PATIENCE_SECONDS)
            if not ended:
                raise ValueError(
                    f"the Ray cluster said nothing for {PATIENCE_SECONDS:.0f} s: look at it with"
                    " `ray status` and run the stage again, which keeps the rows encoded so far"
                )
            self._look_at(ended[0])

    def _start_actor(self) -> None:
        actor = self._kind.remote()
        self._calls[actor.begin.remote(*self._begin)] = (actor, None)

    def _look_at(self, call: Any) -> None:
        """Take the end of a call, and give its actor the next task."""
        actor, task = self._calls.pop(call)
        errors = self._ray.exceptions
        try:
            self._ray.get(call)
        except errors.RayTaskError as error:
            if isinstance(error.cause, (ValueError, OSError, ImportError)):
                raise ValueError(str(error.cause)) from None
            raise
        except (errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            self._replace(task, error)
            return
        if task is not None:
            self._num_left -= 1
            self._done(len(task.wanted.items))
        self._idle.append(actor)
        self._assign()

    def _assign(self) -> None:
        while self._waiting and self._idle:
            actor, task = self._idle.pop(), self._waiting.popleft()
            self._calls[actor.encode.remote(task.wanted)] = (actor, task)

    def _replace(self, task: Task[Item] | None, error: Exception) -> None:
        """Start another actor for one that died, and let whoever is free first have its task."""
        self._num_spare -= 1
        tried = task is not None and task.attempt == MAX_ATTEMPTS
        if tried or self._num_spare < 0:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{self._num_left} tasks are left undone, because actors died again and again"
                f" (the last: {reason}): see that the nodes have enough memory and run the stage"
                " again, which keeps the rows encoded so far"
            )
        if task is not None:
            self._waiting.appendleft(replace(task, attempt=task.attempt + 1))
            self._assign()
        self._start_actor()


def _tasks(missing: Sequence[Wanted[Item]], batch_size: int, room: int) -> list[Task[Item]]:
    """Cut into tasks of whole batches, small enough that all actors have some to the end."""
    num_batches = sum(-(-len(part.items) // batch_size) for part in missing)
    size = batch_size * max(1, min(TASK_BATCHES, num_batches // (2 * room)))
    tasks = []
    for part in missing:
        table = RowTable(part.table.uri, part.table.columns)  # without what it has read
        keys = list(part.items)
        for start in range(0, len(keys), size):
            items = {key: part.items[key] for key in keys[start : start + size]}
            tasks.append(Task(Wanted(table, items, part.describe)))
    return tasks
