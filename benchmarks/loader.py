"""Measure what reading rows costs a training loop: against the same loop on batches in memory.

Run `python benchmarks/loader.py` on a machine that does nothing else; it prints a table. Both loops
are the trainer's own, with the same denoiser and the same batches. The rows are more than are kept
in memory, so each batch comes from the row store: from its files in the page cache ("warm"), or
after these were dropped from it ("cold"). Repetitions are interleaved, and each is compared with
the loop in memory just before it. The first step of a loop, which waits for its batch in every
training once, is not counted.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from noise_dataset import Noise, write_noise

from modelzoo.denoiser import init_denoiser
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2
from stages.params.objective import Objective
from stages.params.optimizer import Optimizer
from stages.params.training import Training
from stages.rows.manifest import PRELOAD_BYTES
from stages.train.batches import Batch, Batches, Prefetch
from stages.train.loop import StepBatches, fit
from stages.train.methods import METHODS
from stages.train.model import Model
from stages.train.objectives import FlowMatching
from stages.train.optimizers import OPTIMIZERS
from stages.train.order import Order
from stages.train.plan import create_plan
from stages.train.samples import Samples, open_samples
from stages.train.state import TrainState

GOAL = 1.02
FAMILY = "flux2"
WIDTH = 512  # of a context token
CHANNELS = 128  # of a latent


@dataclass(frozen=True)
class Sizes:
    """What is trained on."""

    rows: int  # pictures, each with a caption of its own
    side: int  # cells of a latent
    tokens: int  # of a caption

    @property
    def latent(self) -> dict[str, tuple[int, ...]]:
        """Columns of a picture's row."""
        return {"mean": (CHANNELS, self.side, self.side)}

    @property
    def text(self) -> dict[str, tuple[int, ...]]:
        """Columns of a caption's row."""
        return {"context": (self.tokens, WIDTH)}

    @property
    def num_bytes(self) -> int:
        """Bytes of the pictures' rows, and about those of the captions' too."""
        return 4 * self.rows * CHANNELS * self.side**2


def make_dataset(folder: Path, sizes: Sizes) -> Samples:
    """Write rows of noise and the tables that name them; open them as the trainer does."""
    resolution, store = 16 * sizes.side, folder / "store"
    noise = Noise(FAMILY, sizes.rows, resolution, sizes.latent, sizes.text)
    manifests = write_noise(folder, store, noise)
    return open_samples(manifests, FAMILY, resolution, str(store))["train"]


def create_state(depth: int) -> TrainState:
    """Make a small FLUX.2 of `depth` blocks of either kind, and its optimizer."""
    config = Flux2Config(
        in_channels=CHANNELS,
        num_layers=depth,
        num_single_layers=depth,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(16, 16, 16, 16),
        guidance_embeds=False,
    )
    denoiser, accelerator = init_denoiser(Flux2, config, 0), Accelerator(cpu=True)
    trainable = dict(denoiser.network.named_parameters())
    optimizer = OPTIMIZERS["adamw"](trainable.values(), Optimizer())
    denoiser.network, optimizer = accelerator.prepare(denoiser.network.train(), optimizer)
    return TrainState(Model(denoiser), denoiser.network, trainable, optimizer, accelerator, None)


class InMemory:
    """Batches made before the loop."""

    def __init__(self, at: Callable[[int], list[Batch]], steps: int) -> None:
        self.steps = [at(step) for step in range(steps)]

    def at(self, step: int) -> Sequence[Batch]:
        """Return the batches of a step."""
        return self.steps[step]


def seconds_a_step(state: TrainState, batches: StepBatches, steps: int) -> float:
    """Train from step 0; time the steps after the first."""
    method = METHODS["full_finetune"](FlowMatching(Objective()), Training())
    state.step = 0
    for last in (1, steps):
        start = time.perf_counter()
        fit(state, method, batches, create_plan(Training(steps=last), lambda _: 0), [])
    return (time.perf_counter() - start) / (steps - 1)


def evict(folder: Path) -> None:
    """Drop the files of a folder from the page cache, as far as the system follows the advice."""
    os.sync()
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def milliseconds_a_batch(batches: Batches, steps: int) -> float:
    """Time the making of batches while nothing trains: the most that a step may lose to it."""
    start = time.perf_counter()
    for step in range(steps):
        batches.at(step)
    return 1000 * (time.perf_counter() - start) / steps


def compare(
    state: TrainState, batches: Batches, store: Path, steps: int, repetitions: int
) -> Iterator[tuple[str, float, float]]:
    """Yield "warm" or "cold", and the seconds a step from the store and in memory before it.

    Each repetition trains on other batches, so that none is read twice but for its copy in memory.
    """
    device = torch.device("cpu")
    for repetition in range(repetitions):
        for place, name in enumerate(("warm", "cold")):
            first = steps * (2 * repetition + place)

            def at(step: int, first: int = first) -> list[Batch]:
                return batches.at(first + step)

            in_memory = InMemory(at, steps)
            alone = seconds_a_step(state, in_memory, steps)
            if name == "cold":
                evict(store)
            with Prefetch(at, steps, device) as prefetched:
                yield name, seconds_a_step(state, prefetched, steps), alone


def report(measured: Sequence[tuple[str, float, float]]) -> None:
    """Print the medians, and the range of the ratios of neighbours."""
    print(f"| rows | ms a step | in memory | ratio | range | goal |\n|{'---|' * 6}")
    for name in ("warm", "cold"):
        pairs = [(stored, alone) for each, stored, alone in measured if each == name]
        ratios = [stored / alone for stored, alone in pairs]
        stored, alone = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
        print(
            f"| {name} | {stored:.1f} | {alone:.1f} | {statistics.median(ratios):.3f} "
            f"| {min(ratios):.3f} to {max(ratios):.3f} | at most {GOAL} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2200, help="pictures, and captions")
    parser.add_argument("--side", type=int, default=16, help="cells of a latent")
    parser.add_argument("--tokens", type=int, default=64, help="of a caption")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--depth", type=int, default=2, help="blocks of either kind")
    parser.add_argument("--steps", type=int, default=20, help="a loop")
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    sizes = Sizes(asked.rows, asked.side, asked.tokens)
    with tempfile.TemporaryDirectory() as place:
        samples = make_dataset(Path(place), sizes)
        bucket_sizes = dict.fromkeys(samples.buckets, asked.batch_size)
        order = Order(samples.buckets, samples.repeats, bucket_sizes, 1, 0, None)
        batches = Batches(samples, order, FlowMatching(Objective()), 0.1, "mean", 0)
        store = Path(place, "store")
        warm = milliseconds_a_batch(batches, asked.steps)
        evict(store)
        cold = milliseconds_a_batch(batches, asked.steps)
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, {asked.threads} threads of torch "
            f"{torch.__version__}, Python {platform.python_version()}; {asked.rows} pictures, "
            f"{sizes.num_bytes / 2**20:.0f} MiB of latents ({PRELOAD_BYTES / 2**20:.0f} would be "
            f"kept in memory), {asked.repetitions} repetitions of {asked.steps} steps of "
            f"{asked.batch_size} pictures; making a batch takes {warm:.1f} ms, cold {cold:.1f}\n"
        )
        state = create_state(asked.depth)
        report(list(compare(state, batches, store, asked.steps, asked.repetitions)))


if __name__ == "__main__":
    main()
