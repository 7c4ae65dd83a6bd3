"""Measure bases in 8 and 4 bits beside whole ones, on a CPU: bytes, errors, loading, LoRA steps.

Run `python benchmarks/quantised.py` on a machine that does nothing else; it prints three tables.
`--base FOLDER --family NAME` adds the errors with the weights of a base in the diffusers layout.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from models_cases import Case, case, predict
from torch import Tensor, nn

from modelzoo.adapters.adapter import Adapter, add_adapters
from modelzoo.adapters.targets import patterns
from modelzoo.denoiser import Denoiser, load_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from modelzoo.flux.v1.model import Flux1
from modelzoo.quantised.kinds import KINDS
from modelzoo.quantised.linear import QuantisedLinear
from modelzoo.quantised.load import load_quantised, quantisable
from stages.params.compose import load_config

MODELS = Path(__file__).parents[1] / "params/models"
RELEASED = ("sdxl", "sd35_medium", "sd35_large", "flux1_dev", "flux2_klein_4b_base", "flux2_dev")
CASES = ("flux1", "flux2", "sd3", "sdxl")
THREADS, REPEATS, RANK = 2, 5, 16
GIB = 2**30
BATCH = 4  # of the pictures that a base given by its folder is asked about


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="folder of a base in the diffusers layout")
    parser.add_argument("--family", choices=[*FAMILIES], help="of --base")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    row("released base", "parameters, 10^9", "packed, %", "bf16, GiB", *KINDS)
    for name in RELEASED:
        row(name, *released(name))
    row("\nmedium, random weights", "error: int8", "fp8", "nf4")
    for family in CASES:
        row(family, *(f"{100 * error:.2f} %" for error in random_errors(family)))
    if given.base is not None:
        row(given.base.name, *(f"{100 * e:.2f} %" for e in base_errors(given.base, given.family)))
    row(
        "\nflux2, medium, float32",
        "weights, MiB",
        "loading, MiB",
        "LoRA step, s",
        "checkpointed, s",
    )
    for kind in (None, *KINDS):
        row(kind or "whole", *steps(kind))


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
    for name, whole in quantisable(denoiser).items():
        layer = QuantisedLinear(whole, quantisation)
        layer.take(whole.weight.detach())
        denoiser.network.set_submodule(name, layer)


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


@torch.no_grad()
def base_errors(base: Path, family: str) -> list[float]:
    """Give the relative error of predictions of a base's weights, for each kind; t from 0 to 1."""
    kind = FAMILIES[family]
    whole = load_denoiser(kind.denoiser, base / kind.folder)
    predicting = predictions(whole)
    expected = predicting(whole)
    found = [load_quantised(kind.denoiser, base / kind.folder, torch.float32, k) for k in KINDS]
    return [distance(predicting(one), expected) for one in found]


def predictions(denoiser: Denoiser) -> Callable[[Denoiser], Tensor]:
    """Prepare noise and random text features for a base's predictions."""
    torch.manual_seed(1)
    network = denoiser.config
    is_sdxl = hasattr(network, "cross_attention_dim")
    width = network.cross_attention_dim if is_sdxl else network.joint_attention_dim
    rows = {"context": torch.randn(BATCH, 32, width)}
    pooled = network.pooled_dim if is_sdxl else getattr(network, "pooled_projection_dim", None)
    if pooled is not None:
        rows["pooled"] = torch.randn(BATCH, pooled)
    rows["sizes"] = torch.tensor([[32, 64, 0, 0, 32, 64]] * BATCH)
    channels = network.in_channels // (4 if isinstance(denoiser, Flux1) else 1)
    noisy = torch.randn(BATCH, channels, 8, 16)
    t = torch.linspace(0.1, 0.9, BATCH)
    guidance = 1.0 if denoiser.embeds_guidance else None
    return lambda one: one.predict(noisy, t, one.conditioning(rows, guidance))


def steps(kind: str | None) -> Iterator[str]:
    """Give bytes, how far loading raises the memory, and the seconds of LoRA steps."""
    chosen = case("flux2", "medium")
    inputs = chosen.inputs("ours")
    with tempfile.TemporaryDirectory() as folder:
        save_denoiser(chosen.denoiser(chosen.ours()), Path(folder))
        with peak() as reached:
            if kind is None:
                denoiser = load_denoiser(chosen.denoiser, Path(folder))
            else:
                denoiser = load_quantised(chosen.denoiser, Path(folder), torch.float32, kind)
    yield f"{num_bytes(denoiser.network) / 2**20:.0f}"
    yield f"{reached[0] / 2**20:.0f}"
    add_adapters(denoiser.network, Adapter(rank=RANK), patterns("flux2", None), 0)
    for again in (False, True):
        denoiser.network.gradient_checkpointing = again
        yield f"{seconds(lambda: predict(denoiser.network, inputs).square().mean().backward()):.2f}"


def seconds(step: Callable[[], None]) -> float:
    """Time a step: the median of some, after one."""
    step()
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


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
