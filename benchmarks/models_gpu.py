"""Measure LoRA training of FLUX.1 dev at full size on an NVIDIA GPU, beside diffusers.

Run `python benchmarks/models_gpu.py` (needs peft and 80 GB of GPU memory); it prints a table.
Random bf16 weights, the same on both sides, rank 16 on the attention projections, one picture a
step. `--device cpu` does the same at toy size, which proves the script and nothing else.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import diffusers
import torch
from models_cases import THEIRS, Case, case, predict
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.model import Flux1

RANK = 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"]
TARGETS += ["to_add_out"]
WARM_UP, REPEATS = 3, 10
MATMULS = (2048, 4096, 8192, 16384)
LINEAR = {torch.ops.aten.mm, torch.ops.aten.addmm}
MODES = ("plain", "checkpointed", "compiled", "compiled, checkpointed")
HEADER = (
    "side",
    "pixels",
    "mode",
    "loss",
    "seconds a step",
    "peak GiB",
    "TFLOP/s",
    "of the matmul rate",
)


@dataclass(frozen=True)
class Machine:
    """Where it runs, and the largest rate of a bf16 matrix product there."""

    device: torch.device
    peak_flops: float

    def synchronize(self) -> None:
        """Wait until everything asked for is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def median_seconds(self, step: Callable[[], object], repeats: int) -> float:
        """Time a step."""
        taken = []
        for _ in range(repeats):
            self.synchronize()
            start = time.perf_counter()
            step()
            self.synchronize()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)


def matmul_rate(machine: Machine, sides: tuple[int, ...]) -> float:
    """Give the largest FLOP/s of square bf16 products."""
    rates = []
    for side in sides:
        a, b = torch.randn(2, side, side, device=machine.device, dtype=torch.bfloat16).unbind()
        for _ in range(WARM_UP):
            a @ b
        rates.append(2 * side**3 / machine.median_seconds(lambda a=a, b=b: a @ b, REPEATS))
    return max(rates)


def random_network(chosen: Case, side: str, device: torch.device) -> nn.Module:
    """Build a network with frozen bf16 weights that follow from their names alone."""
    with torch.device("meta"):
        network = (chosen.ours() if side == "ours" else chosen.oracle()).to(torch.bfloat16)
    network.to_empty(device=device)
    generator = torch.Generator(device)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                generator.manual_seed(zlib.crc32(name.encode()))
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return network.requires_grad_(False)


def add_lora(network: nn.Module) -> list[nn.Parameter]:
    """Put adapters on the attention projections, and give what learns."""
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS)
    torch.manual_seed(0)
    inject_adapter_in_model(lora, network)
    return [p for p in network.parameters() if p.requires_grad]


def set_mode(network: nn.Module, side: str, mode: str) -> None:
    """Checkpoint or compile the blocks, each side in its own way."""
    blocks = [*network.transformer_blocks, *network.single_transformer_blocks]
    if "checkpointed" in mode:
        if side == "ours":
            network.gradient_checkpointing = True
        else:
            network.enable_gradient_checkpointing()
    if "compiled" in mode:
        for block in blocks:
            block.compile()


def step_flops(chosen: Case) -> float:
    """Count the model's FLOP of a LoRA step; what checkpointing repeats does not count.

    Frozen linear layers cost their forward pass twice (no gradient of weights), attention thrice.
    """
    meta, counter = torch.device("meta"), FlopCounterMode(display=False)
    with meta:
        network = chosen.ours()
    with counter, torch.no_grad():
        predict(network, inputs_on(chosen, "ours", meta, torch.float32))
    counts = counter.get_flop_counts()["Global"]
    linear = sum(count for op, count in counts.items() if op in LINEAR)
    return 2 * linear + 3 * (sum(counts.values()) - linear)


def inputs_on(chosen: Case, side: str, device: torch.device, dtype: torch.dtype) -> dict:
    """Move the inputs of a side; times, guidance and positions stay in float32."""
    kept = ("timestep", "guidance", "img_ids", "txt_ids")
    return {
        name: value.to(device, None if name in kept else dtype)
        for name, value in chosen.inputs(side).items()
    }


def rows(machine: Machine, chosen: Case, pixels: int, side: str) -> Iterator[list[str]]:
    """Measure one side at one size, in every mode."""
    flops = step_flops(chosen)
    for mode in MODES:
        gc.collect()
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds, loss = measure(machine, chosen, side, mode)
        except torch.OutOfMemoryError:
            yield [side, str(pixels), mode, *["out of memory"] * 5]
            continue
        peak = "-"
        if machine.device.type == "cuda":
            peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"
        rate = flops / seconds
        cells = [f"{loss:.4f}", f"{seconds:.3f}", peak, f"{rate / 1e12:.2f}"]
        yield [side, str(pixels), mode, *cells, f"{rate / machine.peak_flops:.2f}"]


def measure(machine: Machine, chosen: Case, side: str, mode: str) -> tuple[float, float]:
    """Give the seconds of a training step and the loss before training."""
    network = random_network(chosen, side, machine.device)
    learning = add_lora(network)
    set_mode(network, side, mode)
    optimizer = torch.optim.AdamW(learning, 1e-4)
    inputs = inputs_on(chosen, side, machine.device, torch.bfloat16)
    losses = []

    def step() -> None:
        loss = predict(network, inputs).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    for _ in range(WARM_UP):
        step()
    return machine.median_seconds(step, REPEATS), losses[0].item()


def main() -> None:
    """Print the table, a row as soon as it is measured."""
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    machine = Machine(torch.device(parser.parse_args().device), 1.0)
    if machine.device.type == "cuda":
        dev, sizes, sides = Flux1Config(guidance_embeds=True), (512, 1024), MATMULS
        chosen, name = Case(Flux1, THEIRS[Flux1], dev, 1, 0, 512), torch.cuda.get_device_name()
    else:
        sizes, sides, chosen, name = (32, 64), MATMULS[:1], case("flux1", "toy"), "CPU, toy size"
    machine = replace(machine, peak_flops=matmul_rate(machine, sides))
    print(f"{name}, torch {torch.__version__}; matmul {machine.peak_flops / 1e12:.2f} TFLOP/s\n")
    print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|")
    for pixels in sizes:
        for side in ("diffusers", "ours"):
            for cells in rows(machine, replace(chosen, side=pixels // 8), pixels, side):
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
