"""Measure bases in 8 and 4 bits beside whole ones, on a CPU: bytes, errors, loading, LoRA steps.

Run `python benchmarks/quantised.py [released] [errors] [steps]`; it prints those tables, or all.
Its seconds are the processor's, so that other work on the machine counts little.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from models_cases import Case, case, predict
from torch import Tensor, nn

from modelzoo.adapters.adapter import Adapter, add_adapters
from modelzoo.adapters.targets import patterns
from modelzoo.denoiser import Denoiser, load_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from modelzoo.quantised.kinds import KINDS
from modelzoo.quantised.load import load_quantised, put_packed, quantisable
from stages.params.compose import load_config

MODELS = Path(__file__).parents[1] / "params/models"
RELEASED = ("sdxl", "sd35_medium", "sd35_large", "flux1_dev", "flux2_klein_4b_base", "flux2_dev")
CASES = ("flux1", "flux2", "sd3", "sdxl")
THREADS, REPEATS, RANK = 1, 1, 16
GIB = 2**30


def main() -> None:
    """Print the tables that are named, or all."""
    torch.set_num_threads(THREADS)
    for name in sys.argv[1:] or TABLES:
        TABLES[name]()


def print_released() -> None:
    """Print what the released bases take."""
    row("released base", "parameters, 10^9", "packed, %", "bf16, GiB", *KINDS)
    for name in RELEASED:
        row(name, *released(name))


def print_errors() -> None:
    """Print how far predictions of random weights are off."""
    row("medium, random weights", *(f"error: {kind}" for kind in KINDS))
    for family in CASES:
        row(family, *(f"{100 * error:.2f} %" for error in random_errors(family)))


def print_steps() -> None:
    """Print what a medium FLUX.2 takes while it is loaded and while adapters learn."""
    row("flux2, medium, float32", "weights, MiB", "loading, MiB", "LoRA step, s", "checkpointed, s")
    with tempfile.TemporaryDirectory() as folder:
        alone(save_medium, folder)
        for kind in (None, *KINDS):
            row(kind or "whole", *alone(steps, folder, kind))


def alone(work: Callable[..., Any], *given: object) -> Any:
    """Run in a process of its own, since memory that is freed stays with one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


TABLES = {"released": print_released, "errors": print_errors, "steps": print_steps}


def row(*cells: object) -> None:
    """Print a row of a table."""
    print(" | ".join(str(cell) for cell in cells), flush=True)


def num_bytes(network: nn.Module) -> int:
    """Count the bytes of weights and of packed values with their scales."""
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def released(preset: str) -> Iterator[str]:
    """Give the size of a released base in bf16, and in each kind."""
    model = load_config(MODELS / f"{preset}.yaml")["model"]
    kind = FAMILIES[model["type"]]
    for quantisation in (None, *KINDS):
        with torch.device("meta"):
            denoiser = kind.denoiser(kind.denoiser.NETWORK(kind.network_config(model)).bfloat16())
        if quantisation is None:
            total = sum(p.numel() for p in denoiser.network.parameters())
            packed = sum(layer.weight.numel() for layer in quantisable(denoiser).values())
            yield f"{total / 1e9:.2f}"
            yield f"{100 * packed / total:.0f}"
        else:
            pack(denoiser, quantisation)
        yield f"{num_bytes(denoiser.network) / GIB:.2f}"


def pack(denoiser: Denoiser, quantisation: str) -> None:
    """Pack a denoiser that is in memory, or on meta, in place."""
    weights = {name: layer.weight.detach() for name, layer in quantisable(denoiser).items()}
    for name, layer in put_packed(denoiser, quantisation).items():
        layer.take(weights[name])


@torch.no_grad()
def random_errors(family: str) -> list[float]:
    """Give the relative error of a prediction of torch's random weights, for each kind."""
    chosen = case(family, "medium")
    inputs = chosen.inputs("ours")
    expected = predict(chosen.ours(), inputs)
    return [distance(predict(packed(chosen, kind), inputs), expected) for kind in KINDS]


def packed(chosen: Case, kind: str) -> nn.Module:
    """Build the network of a case with packed blocks."""
    denoiser = chosen.denoiser(chosen.ours())
    pack(denoiser, kind)
    return denoiser.network


def distance(found: Tensor, expected: Tensor) -> float:
    """Give the length of the difference over that of what is expected."""
    return float((found - expected).norm() / expected.norm())


def save_medium(folder: str) -> None:
    """Write a medium FLUX.2 of random weights."""
    chosen = case("flux2", "medium")
    save_denoiser(chosen.denoiser(chosen.ours()), Path(folder))


def steps(folder: str, kind: str | None) -> list[str]:
    """Give bytes, how far loading raises the memory, and the seconds of LoRA steps."""
    torch.set_num_threads(THREADS)
    chosen = case("flux2", "medium")
    inputs = chosen.inputs("ours")
    with peak() as reached:
        if kind is None:
            denoiser = load_denoiser(chosen.denoiser, Path(folder))
        else:
            denoiser = load_quantised(chosen.denoiser, Path(folder), torch.float32, kind)
    found = [f"{num_bytes(denoiser.network) / 2**20:.0f}", f"{reached[0] / 2**20:.0f}"]
    add_adapters(denoiser.network, Adapter(rank=RANK), patterns("flux2", None), 0)
    for again in (False, True):
        denoiser.network.gradient_checkpointing = again
        found.append(
            f"{seconds(lambda: predict(denoiser.network, inputs).square().mean().backward()):.2f}"
        )
    return found


def seconds(step: Callable[[], None]) -> float:
    """Give the processor's seconds of the quickest of some steps, after one."""
    step()
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        step()
        taken.append(time.process_time() - start)
    return min(taken)


@contextmanager
def peak() -> Iterator[list[int]]:
    """Watch how far the memory of this process rises, files that are mapped left out (bytes)."""
    before, found, ended = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            found[0] = max(found[0], anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def anonymous() -> int:
    """Read the resident memory that is not a file's (bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
