"""Processes that prepare items; what they run imports neither torch nor lance.

Each has a pipe of its own. In the one pipe that a `ProcessPoolExecutor` shares among its processes,
a result that a killed process had half written is waited for for ever (seen in 9 of 40 trials).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TypeVar

from stages.rows.fill import end_with

Item = TypeVar("Item")
Result = TypeVar("Result")

FINISH_SECONDS = 10.0  # for a process to end once it is told to


class KilledError(Exception):
    """The process that prepared an item is gone."""


class Workers:
    """Prepare items in processes of their own, each item in the next that is free."""

    def __init__(self, num_processes: int) -> None:
        self._workers = _start_all(num_processes)
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(num_processes, "read-ahead")  # each waits for a process

    def submit(self, prepare: Callable[[Item], Result], item: Item) -> Future[Result]:
        """Have `prepare` called with `item`; raises what it raised, or KilledError."""
        return self._threads.submit(self._prepare, prepare, item)

    def shutdown(self) -> None:
        """Drop what was not begun and end the processes, whatever they are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.process.terminate()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.process.join(FINISH_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()

    def _prepare(self, prepare: Callable[[Item], Result], item: Item) -> Result:
        worker = self._free.get()
        try:
            return worker.ask(prepare, item)
        finally:
            self._free.put(worker)


class _Worker:
    """A process and our end of its pipe."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is the end of the pipe

    def ask(self, prepare: Callable[[Item], Result], item: Item) -> Result:
        try:
            self.pipe.send((prepare, item))
            is_done, answer = self.pipe.recv()
        except (EOFError, OSError):
            raise KilledError from None
        if not is_done:
            raise answer
        result: Result = answer
        return result


def _start_all(num_processes: int) -> list[_Worker]:
    """Start processes that are deaf to Ctrl-C from their first moment: the stage ends them."""
    resource_tracker.ensure_running()  # it would unblock the signal
    with _ctrl_c_postponed():
        return [_Worker() for _ in range(num_processes)]


@contextmanager
def _ctrl_c_postponed() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end if Ctrl-C came meanwhile; a child inherits the mask.

    Blocked in this thread, the signal reaches another, and Python raises here all the same: in the
    middle of what a new process is told.
    """
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if came:
        raise KeyboardInterrupt


def _serve(pipe: Connection, parent: int) -> None:
    """Answer with what each item became, until the stage ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    while True:
        try:
            prepare, item = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, prepare(item)
        except Exception as error:  # raised where the item is asked for
            answer = False, error
        pipe.send(answer)
