"""What the keys of `training.lora` must agree on, and what `use` writes among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modelzoo.adapters import found
from stages.params.config import Config


def lora(config: Config) -> Iterator[str]:
    """Yield each broken rule of `training.lora` as a sentence that names its keys."""
    given = config.training.lora
    if given is None:
        if config.training.method == "lora":
            yield "training.lora is null, but training.method 'lora' reads it: give it, if only {}"
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
    if given.train_text_encoder:
        yield (
            "training.lora.train_text_encoder: True given, but text encoders are run once and not "
            "trained: set False"
        )
    if given.init_from is not None and not Path(given.init_from).exists():
        yield (
            f"training.lora.init_from: {given.init_from!r} is not there: give a .safetensors file "
            "or a folder with a LoRA, or null"
        )


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
