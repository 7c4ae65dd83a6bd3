"""A Ray cluster: one that is there, or one of this machine for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

INSTALL = "pip install 'diffbase[ray]'"
KNOCK_SECONDS = 5.0  # for a cluster to answer; Ray itself would try for minutes


@contextmanager
def open_cluster(address: str | None, threads: int) -> Iterator[ModuleType]:
    """Give Ray, connected to the cluster at `address`.

    Args:
        address: "ray://host:port", "host:port", "auto" for one that runs on this machine; None
            starts one here, which ends with the block and leaves neither process nor file.
        threads: CPU cores that an actor needs; one started here has at least these.

    Raises:
        ValueError: Ray is not installed, or no cluster answers.
    """
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    try:
        import ray
    except ImportError:
        raise ValueError(
            f"hardware.encode_workers: 'ray' needs the package ray: {INSTALL}, or set it to 'local'"
        ) from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    folder = None
    try:
        if address is not None:
            _connect(ray, address, quiet)
        else:
            folder = tempfile.mkdtemp(prefix="ray-")
            quiet |= {"include_dashboard": False, "_temp_dir": folder}
            with warnings.catch_warnings():  # Ray forks only to start its own programs
                warnings.filterwarnings("ignore", "lance is not fork-safe")
                ray.init(address="local", num_cpus=max(threads, os.cpu_count() or 1), **quiet)
        yield ray
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def count_room(ray: ModuleType, threads: int, gpus: int) -> int:
    """Count the actors, of `threads` cores and `gpus` GPUs each, that the cluster has room for.

    Raises:
        ValueError: there is room for none.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = 0
    for node in nodes:
        cpus = int(node.get("CPU", 0) // threads)
        room += min(cpus, int(node.get("GPU", 0) // gpus)) if gpus else cpus
    if not room:
        raise ValueError(
            f"no node of the Ray cluster has the {threads} CPU cores and {gpus} GPUs that an actor"
            " needs: lower hardware.threads, or give hardware.ray_address of another cluster"
        )
    return room


def _connect(ray: ModuleType, address: str, quiet: dict[str, Any]) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), KNOCK_SECONDS).close()
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"hardware.ray_address: no Ray cluster answers at {address!r} ({reason}): start it"
            " with `ray start --head`, or set it to null for a cluster of this machine"
        ) from None
