"""The memory of this machine, as far as its processes may use it."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from stages.needs import Machine

LIMIT, USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def this_machine() -> Machine:
    """Look at the machine, before anything large is in its memory."""
    process = psutil.Process().memory_info().rss
    host_total, host_free = host_memory()
    if not torch.cuda.is_available():  # as accelerate chooses
        total, free, name, num = host_total, host_free, "CPU", 1
    else:
        free, total = torch.cuda.mem_get_info()
        name, num = torch.cuda.get_device_name(), torch.cuda.device_count()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Machine(device, name, num, total, free, host_total, host_free, process)


def host_memory(limit: Path = LIMIT, used: Path = USED) -> tuple[int, int]:
    """Return how many bytes there are and how many are free, by the machine or its container."""
    memory = psutil.virtual_memory()
    if not limit.is_file() or (most := limit.read_text().strip()) == "max":
        return memory.total, memory.available
    free = int(most) - int(used.read_text())
    return min(memory.total, int(most)), max(0, min(memory.available, free))
