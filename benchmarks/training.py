"""Measure a training step: what the framework costs, and beside the same step written as usual.

Run `python benchmarks/training.py` on a machine that does nothing else; it prints two tables. The
first is the time outside the model of the trainer's step and of a bare loop on the same model and
batches. The second holds the trainer against diffusers, peft and accelerate: same weights, sizes
and method, in one process, repetitions interleaved; peak memory in processes of their own. With
`--compile` our blocks are compiled, the other side is as it is. `--gpu` measures LoRA of FLUX.1 dev
and SDXL at full size with random weights, in bfloat16 and with an int8 base, on a CUDA device.
"""

from __future__ import annotations

import argparse
import gc
import io
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from models import Step, _status, interleaved, machine, ratio
from training_overhead import our_step, overhead
from training_usual import NETS, Usual
from training_work import METHODS, NAMES, Work, our_trainer, write_workspace

THREADS = 2
REPEATS = 7
PEAK_STEPS = 3
BATCH = {"toy": 4, "medium": 1}
OVERHEAD_STEPS = {"toy": 50, "medium": 5}
GOALS = {"overhead": 0.03, "speed": 1.0, "compiled": 1.05, "gpu": 1.2, "memory": 1.0}


def main() -> None:
    """Print the tables, a row as soon as it is measured."""
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    asked = parse()
    if asked.gpu:
        on_gpu(asked.repeats)
        return
    chosen = [
        Work(family, asked.size, method, BATCH[asked.size])
        for family in NAMES
        for method in METHODS
        if asked.family in (None, family) and asked.method in (None, method)
    ]
    peaks = {} if asked.part == "overhead" else {w: peak_ratio(w) for w in chosen if is_usual(w)}
    torch.set_num_threads(asked.threads)  # after the forks
    print(f"{machine()}; {asked.size}, {BATCH[asked.size]} pictures a step, {asked.repeats} turns")
    if asked.part != "steps":
        report_overhead([w for w in chosen if w.method != "controlnet"], asked.repeats)
    if asked.part != "overhead":
        report_steps([w for w in chosen if is_usual(w)], peaks, asked.repeats, asked.compile)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=["overhead", "steps"], help="one of the tables")
    parser.add_argument("--family", choices=list(NAMES))
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--size", choices=["toy", "medium"], default="medium")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="interleaved turns")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--compile", action="store_true", help="compile our blocks")
    parser.add_argument("--gpu", action="store_true", help="full size, on a CUDA device")
    return parser.parse_args()


def is_usual(work: Work) -> bool:
    """Whether diffusers can train it: it has no ControlNet of FLUX.2."""
    return work.method != "controlnet" or work.family in NETS


@contextmanager
def workspace(work: Work) -> Iterator[Path]:
    """Write what both sides read into a folder, which becomes the working folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        write_workspace(work, Path(folder))
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def row(*cells: Any) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def report_overhead(works: Sequence[Work], repeats: int) -> None:
    """Print what the framework adds to a step."""
    print()
    row("family", "method", "ms a bare step", "outside the model", "ours", "overhead", "goal")
    row(*["---"] * 7)
    for work in works:
        with workspace(work) as root:
            bare, outside, ours = overhead(
                our_trainer(work, root), OVERHEAD_STEPS[work.size], repeats
            )
        share = (ours - outside) / bare
        cells = f"{bare:.1f}", f"{outside:.2f}", f"{ours:.2f}", f"{100 * share:.2f} %"
        row(work.family, work.method, *cells, f"at most {100 * GOALS['overhead']:g} %")


def report_steps(
    works: Sequence[Work], peaks: dict[Work, float], repeats: int, compiled: bool
) -> None:
    """Print samples a second and peak memory beside the usual step."""
    goal = GOALS["compiled" if compiled else "speed"]
    print()
    row(
        "family",
        "method",
        "pictures a second, usual",
        "ours, compiled" if compiled else "ours",
        f"ratio (goal {goal:g})",
        "range",
        f"peak memory, ours over usual (goal at most {GOALS['memory']:g})",
    )
    row(*["---"] * 7)
    for work in works:
        with workspace(work) as root:
            ours = our_step(our_trainer(replace(work, compiled=compiled), root))
            with redirect_stdout(io.StringIO()):  # what the trainer says
                usual, own = interleaved([Usual(work, root).step, ours], repeats)
        rates = [f"{work.batch / statistics.median(taken):.3f}" for taken in (usual, own)]
        quotients = [a / b for a, b in zip(usual, own, strict=True)]
        extent = f"{min(quotients):.3f} to {max(quotients):.3f}"
        row(
            work.family,
            work.method,
            *rates,
            f"{ratio(usual, own):.3f}",
            extent,
            f"{peaks[work]:.3f}",
        )
        gc.collect()


def peak_ratio(work: Work) -> float:
    """Compare the peaks, each in a process forked anew: used memory stays with one."""
    context = multiprocessing.get_context("fork")  # no imports again; no thread runs yet
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, maxtasksperchild=1) as pool:
        root = Path(folder)
        pool.apply(write_workspace, (work, root))
        ours, usual = (
            pool.apply(peak_bytes, (side, work, root)) for side in (made_ours, made_usual)
        )
    return ours / usual


def made_ours(work: Work, root: Path) -> Step:
    """Make the trainer's step."""
    return our_step(our_trainer(work, root))


def made_usual(work: Work, root: Path) -> Step:
    """Make the usual step."""
    return Usual(work, root).step


def peak_bytes(make: Callable[[Work, Path], Step], work: Work, root: Path) -> int:
    """Give what a training adds to this process's memory at the peak of its steps.

    Mapped weights count, which is where diffusers leaves them; code of libraries does not.
    """
    os.chdir(root)
    before = _status("VmRSS") - code_bytes()
    step = make(work, root)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    for _ in range(PEAK_STEPS):
        step()
    return _status("VmHWM") - code_bytes() - before


def code_bytes() -> int:
    """Give the memory that mapped libraries take in this process."""
    kib, is_code = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):  # the first line of a mapping; its file comes last
            is_code = ".so" in rest[-1]
        elif name == "Rss:" and is_code:
            kib += int(rest[0])
    return 1024 * kib


def on_gpu(repeats: int) -> None:
    """Print seconds and peak memory of LoRA at full size, one side after the other."""
    if not torch.cuda.is_available():
        raise SystemExit("--gpu needs a CUDA device, and there is none: leave it out")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    row("model", "base", "side", "compiled", "pictures a second", "peak GiB")
    row(*["---"] * 6)
    for family in ("flux1", "sdxl"):
        work = Work(family, "full", "lora", 1, dtype="bfloat16")
        with workspace(work) as root:
            for quantize in (None, "int8"):
                asked = replace(work, quantize=quantize)
                for side, each in (
                    (made_usual, asked),
                    (made_ours, asked),
                    (made_ours, replace(asked, compiled=True)),
                ):
                    rate, peak = on_device(side, each, root, repeats)
                    name = side.__name__.removeprefix("made_")
                    cells = quantize or "bf16", name, each.compiled
                    row(family, *cells, f"{rate:.3f}", f"{peak:.2f}")


def on_device(
    make: Callable[[Work, Path], Step], work: Work, root: Path, repeats: int
) -> tuple[float, float]:
    """Give the median of steps a second, and the peak of allocated memory in GiB."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step, taken = make(work, root), []
    for _ in range(repeats + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return 1 / statistics.median(taken[3:]), torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
