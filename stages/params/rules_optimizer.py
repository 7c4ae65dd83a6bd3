"""What the keys of the optimizer, its schedule and full fine-tuning must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from stages.params.config import Config
from stages.params.optimizer import LrSchedule, Optimizer

ADAM = ("beta1", "beta2", "eps")
READS = {  # of the keys that not every optimizer reads
    "adamw": ADAM,
    "adamw_8bit": ADAM,
    "adafactor": (),
    "lion": ("beta1", "beta2"),
    "prodigy": ADAM,
    "schedule_free": ADAM,
    "muon": (*ADAM, "momentum"),
}
PACKAGES = {
    "adamw_8bit": "bitsandbytes",
    "lion": "bitsandbytes",
    "prodigy": "prodigyopt",
    "schedule_free": "schedulefree",
}
SHAPES = {"power": "polynomial", "cycles": "cosine"}  # of the schedule, and the type that reads it
STEP_DISTILLED = {("flux", "schnell"), ("flux2", "klein-4b"), ("flux2", "klein-9b")} | {
    ("sd3", "large-turbo")
}
LEAST_FACTOR = 0.1  # of Prodigy's rate; less was meant as a rate


def broken(config: Config) -> Iterator[str]:
    """Yield each broken rule as a sentence that names its keys."""
    optimizer = config.training.optimizer
    yield from _package(optimizer)
    yield from _unread(optimizer)
    yield from _schedule(config)
    yield from _prodigy(config)
    yield from _schedule_free(config)
    yield from _rounding(config)
    yield from _fused_backward(config)
    yield from _distilled(config)


def _package(optimizer: Optimizer) -> Iterator[str]:
    package = PACKAGES.get(optimizer.type)
    if package is not None and find_spec(package) is None:
        yield (
            f"training.optimizer.type: {optimizer.type!r} given, but {package} is not installed: "
            "pip install 'diffbase[optimizers]'"
        )


def _unread(optimizer: Optimizer) -> Iterator[str]:
    for name in (*ADAM, "momentum"):
        given, default = getattr(optimizer, name), getattr(Optimizer(), name)
        if name not in READS[optimizer.type] and given != default:
            yield (
                f"training.optimizer.{name}: {given:g} given, but {optimizer.type!r} does not "
                f"read it: set it to {default:g}"
            )


def _schedule(config: Config) -> Iterator[str]:
    schedule, steps = config.training.lr_schedule, config.training.steps
    for name, kind in SHAPES.items():
        given, default = getattr(schedule, name), getattr(LrSchedule(), name)
        if schedule.type != kind and given != default:
            yield (
                f"training.lr_schedule.{name}: {given:g} given, but type {schedule.type!r} does "
                f"not read it: set it to {default:g}, or type to {kind!r}"
            )
    if schedule.decay_steps is None:
        return
    if schedule.type == "constant":
        yield (
            f"training.lr_schedule.decay_steps: {schedule.decay_steps} given, but type 'constant' "
            "never falls: set it to null, or type to 'linear' or 'cosine'"
        )
    if steps is not None and schedule.warmup_steps + schedule.decay_steps > steps:
        yield (
            f"training.lr_schedule.decay_steps: {schedule.decay_steps} given, at most "
            f"training.steps less warmup_steps ({steps - schedule.warmup_steps}) expected"
        )


def _prodigy(config: Config) -> Iterator[str]:
    training = config.training
    if training.optimizer.type != "prodigy":
        return
    if training.learning_rate < LEAST_FACTOR:
        yield (
            f"training.learning_rate: {training.learning_rate:g} given, but 'prodigy' finds the "
            "rate itself and takes this as a factor of it: set 1.0"
        )
    for name in ("groups", "rounding", "fused_backward"):
        given, default = getattr(training.optimizer, name), getattr(Optimizer(), name)
        if given != default:
            yield (
                f"training.optimizer.{name} is given, but 'prodigy' finds one rate from all "
                f"weights at once: set it to {default!r}"
            )


def _schedule_free(config: Config) -> Iterator[str]:
    training = config.training
    if training.optimizer.type != "schedule_free":
        return
    if training.lr_schedule.type != "constant":
        yield (
            f"training.lr_schedule.type: {training.lr_schedule.type!r} given, but 'schedule_free' "
            "takes the place of a schedule: set 'constant'"
        )
    if training.ema is not None:
        yield (
            "training.ema is given, but 'schedule_free' keeps an average of its own: set it to null"
        )
    if training.optimizer.beta1 == 0:
        yield "training.optimizer.beta1: 0 given, but 'schedule_free' divides by it: set 0.9"


def _rounding(config: Config) -> Iterator[str]:
    given, dtype = config.training.optimizer.rounding, config.model.dtype
    if given != "none" and dtype != "bfloat16":
        yield (
            f"training.optimizer.rounding: {given!r} given, but model.dtype {dtype!r} is not "
            "rounded to: set it to 'none', or model.dtype to 'bfloat16'"
        )
    elif given != "none" and (config.training.learns == "lora" or config.training.reads_lora):
        yield (
            f"training.optimizer.rounding: {given!r} given, but adapters are float32 whatever "
            "model.dtype is: set it to 'none'"
        )


def _fused_backward(config: Config) -> Iterator[str]:
    training = config.training
    if not training.optimizer.fused_backward:
        return
    if training.gradient_accumulation != 1:
        yield (
            "training.optimizer.fused_backward steps in each backward pass, but "
            f"training.gradient_accumulation is {training.gradient_accumulation}: set it to 1"
        )
    if training.max_grad_norm is not None:
        yield (
            "training.optimizer.fused_backward never holds the whole gradient, but "
            f"training.max_grad_norm {training.max_grad_norm:g} needs its length: set it to null"
        )
    if config.hardware.mixed_precision == "fp16":
        yield (
            "training.optimizer.fused_backward cannot undo the loss scale of "
            "hardware.mixed_precision 'fp16': set 'bf16'"
        )


def _distilled(config: Config) -> Iterator[str]:
    model, training = config.model, config.training
    is_released = (model.type, model.variant) in STEP_DISTILLED
    is_distilled = is_released and model.from_scratch is None
    learns_fully = training.learns == "full_finetune"
    if learns_fully and is_distilled and not training.allow_distilled:
        yield (
            f"model.variant: {model.variant!r} is distilled to few steps, which full fine-tuning "
            "undoes: take its base model, or set training.allow_distilled to true"
        )
    if training.allow_distilled and not (is_distilled and learns_fully):
        yield (
            f"training.allow_distilled is true, but training.method {training.method!r} of "
            f"model.variant {model.variant!r} does not ask for it: set it to false"
        )
