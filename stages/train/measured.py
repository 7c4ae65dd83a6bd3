"""What a training took, set beside what its pre-flight had predicted."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

from stages import predictions
from stages.tracking import Run
from stages.train.state import TrainState

COMPARED = ("peak_bytes", "checkpoint_bytes", "step_seconds", "training_seconds")


class Stopwatch:
    """Measures from now on; what a resumed training did before is not its own."""

    def __init__(self, state: TrainState) -> None:
        self._state, self._first, self._start = state, state.step, time.perf_counter()
        self._bytes = bytes_now(state.device)

    def read(self, newest: Path) -> dict[str, float]:
        """Return bytes and seconds; `newest` is the folder of the newest checkpoint."""
        seconds, steps = time.perf_counter() - self._start, self._state.step - self._first
        found = {
            "start_bytes": self._bytes,  # the model, and on a CPU all libraries
            "peak_bytes": peak_bytes(self._state.device),
            "checkpoint_bytes": sum(file.stat().st_size for file in newest.glob("*.safetensors")),
            "steps": steps,
            "step_seconds": seconds / steps,
        }
        return found if self._first else {**found, "training_seconds": seconds}


def bytes_now(device: torch.device) -> int:
    """Return what is in the memory of a GPU by this process, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def peak_bytes(device: torch.device) -> int:
    """Return the most that was ever in the memory of a GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def record(run: Run, root: str, parameters: str, found: Mapping[str, float]) -> None:
    """Keep what was measured, and show it beside the prediction in the tracking run."""
    path = predictions.write(root, parameters, predictions.MEASURED, found)
    predicted = predictions.read(root, parameters).get(predictions.PREDICTED, {})
    metrics = {
        f"{kind}_{name}": float(of[name])
        for kind, of in ((predictions.PREDICTED, predicted), (predictions.MEASURED, found))
        for name in COMPARED
        if name in of
    }
    run.log_metrics(metrics)
    run.log_artifact(path, "preflight")
