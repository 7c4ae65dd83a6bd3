"""Prepare items while the encoder works: in order, a bounded number ahead, in other processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Generic

from stages.encoding import workers
from stages.encoding.batch import Inputs, Item

AHEAD_BYTES = 512 * 2**20  # of prepared inputs that wait, unless one batch is more


class ReadAhead(Generic[Item]):
    """The prepared inputs of `items`, in order."""

    def __init__(
        self, pool: Executor, prepare: Callable[[Item], Inputs], items: Sequence[Item]
    ) -> None:
        self._submit = lambda item: pool.submit(prepare, item)
        self._left = deque(items)
        self._pending: deque[Future[Inputs]] = deque()
        self._item_bytes = 0

    def take(self, num_items: int, ahead: int) -> list[Inputs]:
        """Return the next inputs, and have up to `ahead` more prepared meanwhile.

        Raises:
            ValueError: an item cannot be prepared, or the process that should is gone.
        """
        try:
            self._fill(num_items)
            taken = []
            for _ in range(num_items):
                taken.append(self._pending.popleft().result())
                self._item_bytes = taken[-1].nbytes
                self._fill(min(ahead, max(num_items, AHEAD_BYTES // max(1, self._item_bytes))))
        except BrokenProcessPool:
            raise ValueError(
                "a process that opens pictures was killed, most likely because memory ran out:"
                " lower hardware.decode_workers or hardware.encode_batch_size and run it again,"
                " which keeps the rows encoded so far"
            ) from None
        return taken

    def _fill(self, num_items: int) -> None:
        while self._left and len(self._pending) < num_items:
            self._pending.append(self._submit(self._left.popleft()))


@contextmanager
def open_pool(num_processes: int) -> Iterator[Executor]:
    """Give what prepares items: processes, or one thread of this process where there are none.

    Leaving it, for whatever reason, drops what was not begun and ends the processes.
    """
    pool: Executor
    if num_processes:
        spawn = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
        pool = ProcessPoolExecutor(num_processes, spawn, workers.begin, (os.getpid(),))
        _start_all(pool, num_processes)
    else:
        pool = ThreadPoolExecutor(1, "read-ahead")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_all(pool: Executor, num_processes: int) -> None:
    """Start the processes now, deaf to Ctrl-C from their first moment."""
    resource_tracker.ensure_running()  # it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as a child inherits it
    try:
        for _ in range(num_processes):
            pool.submit(os.getpid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
