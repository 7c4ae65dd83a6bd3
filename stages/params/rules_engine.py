"""What the keys of a training's processes and checkpoints must agree on."""

from __future__ import annotations

from collections.abc import Iterator

from stages.params.config import Config

# Steps each element alike, so that a process can step its rows of a weight.
SHARDABLE = ("adamw", "lion", "schedule_free")


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
    if config.hardware.sharding != "none":
        yield from _sharding(config)


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


def _sharding(config: Config) -> Iterator[str]:
    given, training = f"hardware.sharding: {config.hardware.sharding!r} given, but", config.training
    if config.hardware.processes == 1:
        yield (
            f"{given} hardware.processes is 1, which has nobody to share with: raise that, or set "
            "sharding to 'none'"
        )
    if training.learns != "full_finetune":
        yield (
            f"{given} training.method {training.method!r} trains {training.learns!r} beside a "
            "frozen base, which would not be divided: set sharding to 'none'"
        )
    if training.optimizer.type not in SHARDABLE:
        yield (
            f"{given} training.optimizer.type {training.optimizer.type!r} looks at whole weights "
            f"or at blocks of them: set it to one of {list(SHARDABLE)}, or sharding to 'none'"
        )
