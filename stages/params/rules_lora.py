"""What the keys of `training.lora` must agree on, and what `use` writes among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modelzoo.adapters import found
from modelzoo.text_encoders.tokenization.parts import TEXT_PARTS
from stages.params.config import Config
from stages.params.methods import Lora
from stages.params.rules_optimizer import STEP_DISTILLED


def lora(config: Config) -> Iterator[str]:
    """Yield each broken rule of `training.lora` as a sentence that names its keys."""
    given = config.training.lora
    if given is None:
        if (training := config.training).reads_lora:
            key = "controlnet.kind" if training.is_control_lora else "method"
            yield (
                f"training.lora is null, but training.{key} 'lora' reads it: give it, if only {{}}"
            )
        return
    if given.kind != "lora":
        for key in ("dropout", "use_rslora", "use_dora"):
            if getattr(given, key):
                yield (
                    f"training.lora.{key}: {getattr(given, key)} given, but training.lora.kind "
                    f"{given.kind!r} has none: set {key} to {type(getattr(given, key))()}, or kind "
                    "to lora"
                )
    if given.target_modules == []:
        yield "training.lora.target_modules is empty: give patterns, or null for the family's"
    yield from _text(config, given)
    if given.init_from is not None and not Path(given.init_from).exists():
        yield (
            f"training.lora.init_from: {given.init_from!r} is not there: give a .safetensors file "
            "or a folder with a LoRA, or null"
        )


def _text(config: Config, given: Lora) -> Iterator[str]:
    """Yield each broken rule of adapters in text encoders."""
    kind = config.model.type
    if given.text_target_modules is not None and not given.train_text_encoder:
        yield (
            "training.lora.text_target_modules is given, but train_text_encoder is false: set it "
            "to true, or text_target_modules to null"
        )
    if given.text_target_modules == []:
        yield "training.lora.text_target_modules is empty: give patterns, or null for attention"
    if given.train_text_encoder and not any(part.learns for part in TEXT_PARTS.get(kind, ())):
        yield (
            f"training.lora.train_text_encoder: True given, but the text encoder of model.type "
            f"{kind!r} is a language model, of which diffusers loads no adapters: set False"
        )


def doubtful(config: Config) -> Iterator[str]:
    """Yield what is allowed of adapters, but seldom wanted."""
    model = config.model
    is_distilled = (model.type, model.variant) in STEP_DISTILLED and model.from_scratch is None
    if config.training.lora is not None and is_distilled:
        yield (
            f"model.variant {model.variant!r} is distilled to few steps, which long training of "
            "adapters undoes: train on its base model, and load the LoRA into this one"
        )


def export(config: Config) -> Iterator[str]:
    """Yield each broken rule of what is exported of adapters."""
    given, asked = config.training.lora, config.export
    if given is None:
        for key, value in (("merge", asked.merge), ("lora_formats", asked.lora_formats)):
            if value:
                yield (
                    f"export.{key}: {value} given, but training.lora is null, so that there are no "
                    f"adapters to export: set {'false' if key == 'merge' else 'null'}"
                )
        return
    if asked.merge and asked.lora_formats is not None:
        yield (
            "export.merge is true, which writes a whole model, but export.lora_formats "
            f"{asked.lora_formats} names files of adapters: set one of them to its default"
        )
    holding = ["peft"] if given.kind != "lora" else ["diffusers", "peft"]
    holding += [] if given.kind != "lora" or given.use_dora else ["comfyui"]
    for form in asked.lora_formats or ():
        if form not in holding:
            yield (
                f"export.lora_formats: {form!r} given, but adapters of this kind go into "
                f"{' or '.join(holding)} alone: set those, or null"
            )
    if asked.lora_formats == []:
        yield "export.lora_formats is empty: name a form, or null for all"


def init_digest(config: Config) -> str | None:
    """Give what `training.lora.init_digest` holds: the content of what `init_from` names.

    Raises:
        ValueError: What it names is no LoRA.
    """
    if config.training.lora is None or config.training.lora.init_from is None:
        return None
    try:
        return found.digest(Path(config.training.lora.init_from))
    except FileNotFoundError as error:
        raise ValueError(f"training.lora.init_from: {error}") from None
