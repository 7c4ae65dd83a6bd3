"""Adapters inside text encoders: added, and kept in folders of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from modelzoo.adapters.adapter import (
    TEXT_TARGET_KEY,
    Adapter,
    adapter_parameters,
    add_adapters,
)
from modelzoo.adapters.files import is_adapter, load_adapters, save_adapters
from modelzoo.adapters.found import text_folders
from modelzoo.text_encoders.text_encoder import PartEncoder

Parts = Mapping[str, PartEncoder]  # by folder in the diffusers layout, such as "text_encoder_2"


def add_text_adapters(parts: Parts, adapter: Adapter, patterns: list[str], seed: int) -> None:
    """Freeze text encoders and add adapters that change nothing yet.

    Raises:
        ValueError: A pattern fits no layer.
    """
    for folder, part in parts.items():
        add_adapters(
            part,
            adapter,
            patterns,
            seed,
            key=TEXT_TARGET_KEY,
            prefix=f"{folder}.",
            is_alone=False,
        )


def text_parameters(parts: Parts) -> dict[str, nn.Parameter]:
    """Give the parameters of all adapters: `text_encoder.text_model. ... .lora_A.weight`."""
    return {
        f"{folder}.{name}": parameter
        for folder, part in parts.items()
        for name, parameter in adapter_parameters(part).items()
    }


def save_text_adapters(parts: Parts, folder: Path) -> None:
    """Write each text encoder's adapters into a folder of its name inside `folder`."""
    for name, part in parts.items():
        save_adapters(part, folder / name)


def load_text_adapters(parts: Parts, folder: Path) -> None:
    """Add the adapters that `save_text_adapters` wrote, if it did; every key is used.

    Raises:
        FileNotFoundError: A folder is not complete.
        ValueError: The adapters are of other text encoders.
    """
    found = [path.name for path in text_folders(folder)] if is_adapter(folder) else []
    if surplus := sorted(set(found) - parts.keys()):
        raise ValueError(
            f"{folder} holds adapters of {surplus!r}, but those that learn here are "
            f"{sorted(parts)!r}: give adapters of this model.type"
        )
    for name in found:
        load_adapters(parts[name], folder / name)
