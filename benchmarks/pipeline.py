"""Measure the demo in a fresh clone: the whole graph, nothing to do, and how light stages start.

Run `python benchmarks/pipeline.py` on a machine that does nothing else; it prints a table.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIGHT_STAGES = ("make_digits", "ingest.stage", "bucket.stage")
REPEATS = 5


def seconds(command: Sequence[str], folder: Path, environment: dict[str, str]) -> float:
    """Run a command to its end and return its wall-clock seconds."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def graph(folder: Path) -> list[tuple[str, str]]:
    """Reproduce the committed experiment in a fresh clone, then once more with nothing to do."""
    clone, binaries = folder / "clone", str(Path(sys.executable).parent)
    environment = {
        **{k: v for k, v in os.environ.items() if k != "DIFFBASE_STORE"},
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    whole = seconds(["dvc", "repro", "--quiet"], clone, environment)
    changed = subprocess.run(["git", "diff", "--quiet", "--", "*dvc.lock"], cwd=clone).returncode
    idle = [seconds(["dvc", "repro", "--quiet"], clone, environment) for _ in range(REPEATS)]
    metrics = json.loads((clone / "data/evaluate/metrics.json").read_text())
    return [
        ("`dvc repro` in a fresh clone", f"{whole:.0f} s"),
        ("dvc.lock afterwards", "changed" if changed else "unchanged"),
        ("digit accuracy", f"{metrics['digit_accuracy']:g} over {metrics['digits_judged']}"),
        ("`dvc repro` with nothing to do, median of 5", f"{statistics.median(idle):.2f} s"),
    ]


def starts() -> list[tuple[str, str]]:
    """Import light stages, and see that torch stays out."""
    rows = []
    for stage in LIGHT_STAGES:
        code = f"import sys, stages.{stage}; sys.exit('torch' in sys.modules)"
        command = [sys.executable, "-c", code]
        taken = [seconds(command, ROOT, dict(os.environ)) for _ in range(REPEATS)]
        name = f"import of stages.{stage}, without torch, median of 5"
        rows.append((name, f"{statistics.median(taken):.2f} s"))
    return rows


def main() -> None:
    """Print the table."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| measure | value |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, value in [*starts(), *graph(Path(folder))]:
            print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
