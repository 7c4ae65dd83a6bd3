"""What the keys of a training's processes and checkpoints must agree on."""

from __future__ import annotations

from collections.abc import Iterator

from stages.params.config import Config


def broken(config: Config) -> Iterator[str]:
    """Yield each broken rule as a sentence that names its keys."""
    processes, num_parts = config.hardware.processes, config.training.gradient_accumulation
    if processes > num_parts:
        yield (
            f"hardware.processes: {processes} given, but a step has {num_parts} micro-batches to "
            f"share (training.gradient_accumulation): raise that to a multiple of {processes}; "
            "training.batch_size may be lowered by the same factor"
        )
    if processes > 1 and config.training.optimizer.fused_backward:
        yield (
            f"training.optimizer.fused_backward is true, but hardware.processes is {processes}: a "
            "step in the backward pass cannot wait for other processes; set one of them back"
        )
    yield from _offloading(config)


def _offloading(config: Config) -> Iterator[str]:
    """Hold `hardware.offload_blocks` to frozen weights whose blocks keep no activations."""
    asked, training = config.hardware.offload_blocks, config.training
    if not asked:
        return
    if training.learns == "full_finetune":
        yield (
            f"hardware.offload_blocks: {asked} given, but full fine-tuning has no frozen base, and "
            "only frozen weights are offloaded: set 0, or train a LoRA or a ControlNet"
        )
    if not config.hardware.gradient_checkpointing:
        yield (
            f"hardware.offload_blocks: {asked} given, but hardware.gradient_checkpointing is "
            "false, so blocks would keep their weights for the backward pass: set it to true"
        )
