"""Several processes at once, as a launcher such as torchrun starts them, and what they leave."""

from __future__ import annotations

import csv
import os
import socket
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tests.train.conftest import Workspace

SETTINGS = {"batch_size": 2, "gradient_accumulation": 3, "log_every": 1}


def rows_of(workspace: Workspace, name: str) -> list[list[float]]:
    """Read a curve."""
    with (workspace.output / f"curves/{name}.csv").open() as file:
        return [[float(value) for value in row] for row in list(csv.reader(file))[1:]]


def losses_of(workspace: Workspace) -> dict[str, list[list[float]]]:
    """Read both curves."""
    return {name: rows_of(workspace, name) for name in ("loss", "val_loss")}


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def as_rank(rank: int, num: int, port: int, work: Callable[..., None], *given: Any) -> None:
    """Do something in a process that a launcher such as torchrun has started."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num),
        LOCAL_WORLD_SIZE=str(num),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    with Path("said").open("a") as file, redirect_stdout(file):
        work(*given)


def together(forks: Any, num: int, work: Callable[..., None], *given: Any) -> list[int]:
    """Do something in several processes at once; return their exit codes."""
    port = free_port()
    children = [
        forks.Process(target=as_rank, args=(rank, num, port, work, *given)) for rank in range(num)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]
