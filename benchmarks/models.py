"""Measure forward and backward of every family beside diffusers: time and peak memory, on a CPU.

Run `python benchmarks/models.py` on a machine that does nothing else; it prints a table, and with
`--write docs/models_speed.md` keeps it. Time: both networks, with the same weights, in one process,
their repetitions interleaved. Memory: each network in processes of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from models_cases import BATCHES, CASES, Case, case, predict
from torch import nn

THREADS = 2
REPEATS = 7
SAMPLE_SECONDS = 0.3  # at least, so that a sample is longer than the scheduler's whims
PEAK_STEPS = 2
PEAK_REPEATS = 3
PEAK_BATCH = 4  # pictures; in a smaller batch gradients outweigh activations
HEADER = (
    "family",
    "size",
    "parameters",
    "seconds, diffusers",
    "seconds, ours",
    "time ratio",
    "ours against itself",
    "memory ratio",
    "checkpointed: time",
    "checkpointed: memory",
    "compiled: time",
)

Step = Callable[[], None]


def step_of(network: nn.Module, inputs: Mapping[str, Any]) -> Step:
    """Make one forward and backward pass of all parameters."""

    def step() -> None:
        network.zero_grad(set_to_none=True)
        predict(network, inputs).square().mean().backward()

    return step


def seconds(step: Step, loops: int) -> float:
    """Time a step, averaged over loops."""
    start = time.perf_counter()
    for _ in range(loops):
        step()
    return (time.perf_counter() - start) / loops


def interleaved(steps: Sequence[Step], repeats: int) -> list[list[float]]:
    """Time the steps in turns, the order reversed each time; gives the seconds of each."""
    loops = []
    for step in steps:
        step()  # the first makes buffers
        loops.append(max(1, round(SAMPLE_SECONDS / seconds(step, 1))))
    taken: list[list[float]] = [[] for _ in steps]
    for repeat in range(repeats):
        order = list(range(len(steps)))
        for index in reversed(order) if repeat % 2 else order:
            taken[index].append(seconds(steps[index], loops[index]))
    return taken


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Give the median of the quotients of what was measured side by side."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def times(chosen: Case, compiled: bool, repeats: int) -> list[str]:
    """Measure the columns of time: seconds and ratios, checkpointed and compiled."""
    networks = [chosen.oracle(), *(chosen.ours() for _ in range(4 if compiled else 3))]
    state = networks[1].state_dict()
    for network in networks:
        network.load_state_dict(state)
    networks[3].gradient_checkpointing = True
    if compiled:
        torch._dynamo.config.recompile_limit = 64  # SDXL's resnets come in more shapes than 8
        for block in chosen.denoiser(networks[4]).blocks():
            block.compile()
    inputs = [chosen.inputs("theirs"), *[chosen.inputs("ours")] * (len(networks) - 1)]
    steps = [step_of(*pair) for pair in zip(networks, inputs, strict=True)]
    taken = interleaved(steps, repeats)
    theirs, ours = (statistics.median(taken[index]) for index in (0, 1))
    parts = [f"{theirs:.3f}", f"{ours:.3f}", f"{ratio(taken[1], taken[0]):.3f}"]
    parts += [f"{ratio(own, taken[1]):.3f}" for own in taken[2:]]
    return parts if compiled else [*parts, "not run"]


def peak_bytes(chosen: Case, kind: str) -> int:
    """Give what building a network and training it adds to this process's memory at its peak."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    side = "theirs" if kind.startswith("theirs") else "ours"
    network = chosen.oracle() if side == "theirs" else chosen.ours()
    network.gradient_checkpointing = kind.endswith("checkpointed")
    step = step_of(network, chosen.inputs(side))
    for _ in range(PEAK_STEPS):
        step()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "only Linux counts the peak of a process's memory"
    return int(found[1]) * 1024


def peaks(family: str, size: str) -> dict[str, float]:
    """Measure the peaks of a case, each in processes forked anew: used memory stays with one."""
    chosen = replace(case(family, size), batch=PEAK_BATCH)
    context = multiprocessing.get_context("fork")  # no imports again; no thread runs yet
    with context.Pool(1, maxtasksperchild=1) as pool:
        return {
            kind: statistics.median(
                pool.apply(peak_bytes, (chosen, kind)) for _ in range(PEAK_REPEATS)
            )
            for kind in ("theirs", "ours", "ours-checkpointed")
        }


def row(family: str, size: str, peak: dict[str, float], compiled: bool, repeats: int) -> list[str]:
    """Measure the times of a row of the table, and put the memory beside."""
    chosen = case(family, size)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in chosen.ours().parameters()) / 1e6
    theirs, ours, time_ratio, itself, checkpointed, fused = times(chosen, compiled, repeats)
    return [
        family,
        size,
        f"{parameters:.1f} M",
        theirs,
        ours,
        time_ratio,
        itself,
        f"{peak['ours'] / peak['theirs']:.3f} ({peak['ours'] / 2**20:.0f} MiB)",
        checkpointed,
        f"{peak['ours-checkpointed'] / peak['ours']:.3f}",
        fused,
    ]


def machine() -> str:
    """Describe what was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, "
        f"float32, torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"Python {platform.python_version()}"
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=sorted({family for family, _ in CASES}))
    parser.add_argument("--size", choices=sorted({size for _, size in CASES}))
    parser.add_argument("--repeats", type=int, default=REPEATS, help="interleaved repetitions")
    parser.add_argument("--threads", type=int, default=THREADS, help="1 where others compute too")
    parser.add_argument("--compile", action="store_true", help="measure compiled blocks too")
    parser.add_argument("--write", type=Path, help="file that gets the table as well")
    return parser.parse_args()


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    warnings.filterwarnings("ignore")
    asked = parse()
    torch.set_num_threads(asked.threads)
    chosen = [
        (family, size)
        for family, size in CASES
        if asked.family in (None, family) and asked.size in (None, size)
    ]
    measured = {key: peaks(*key) for key in chosen}  # before this process starts threads
    lines = [
        f"{machine()}; median of {asked.repeats} interleaved repetitions. Time in batches of "
        f"{BATCHES['toy'][0]} (toy) and {BATCHES['medium'][0]} (medium), memory of {PEAK_BATCH}.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---" * len(HEADER) + "|",
    ]
    print("\n".join(lines), flush=True)
    for key in chosen:
        cells = row(*key, measured[key], asked.compile, asked.repeats)
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    if asked.write:
        asked.write.write_text("\n".join(["# Speed beside diffusers", "", *lines, ""]))


if __name__ == "__main__":
    main()
