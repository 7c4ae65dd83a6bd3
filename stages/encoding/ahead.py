"""Prepare items while the encoder works: in order, a bounded number ahead, in other processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Protocol

from stages.encoding.batch import Inputs, Item
from stages.encoding.workers import KilledError, Workers

AHEAD_BYTES = 512 * 2**20  # of prepared inputs that wait, unless one batch is more


class Pool(Protocol):
    """What prepares items: threads or processes."""

    def submit(self, prepare: Callable[[Item], Inputs], item: Item, /) -> Future[Inputs]:
        """Have `prepare` called with `item`."""


class ReadAhead(Generic[Item]):
    """The prepared inputs of `items`, in order."""

    def __init__(
        self, pool: Pool, prepare: Callable[[Item], Inputs], items: Sequence[Item]
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
        except KilledError:
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
def open_pool(num_processes: int) -> Iterator[Pool]:
    """Give what prepares items: processes, or one thread of this process where there are none.

    Leaving it, for whatever reason, drops what was not begun and ends the processes.
    """
    if num_processes:
        workers = Workers(num_processes)
        try:
            yield workers
        finally:
            workers.shutdown()
        return
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        try:
            yield thread
        finally:
            thread.shutdown(wait=True, cancel_futures=True)
