"""The files of adapters that somebody gives, and what they hold as one digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"


def weights_file(place: Path) -> Path:
    """Give the safetensors file of a folder, or the file itself.

    Raises:
        FileNotFoundError: There is no such file.
    """
    candidates = [place] if place.suffix == ".safetensors" else []
    candidates += [place / WEIGHTS, place / DIFFUSERS_WEIGHTS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"{place} is no LoRA: give a .safetensors file, or a folder with {WEIGHTS} or "
        f"{DIFFUSERS_WEIGHTS}"
    )


def text_folders(place: Path) -> list[Path]:
    """List the folders of text encoders' adapters inside a folder of ours."""
    if weights_file(place).name != WEIGHTS:
        return []
    return sorted(
        path.parent for path in weights_file(place).parent.glob(f"text_encoder*/{WEIGHTS}")
    )


def digest(place: Path) -> str:
    """Hash the weights, their configurations, and those of text encoders beside (sha256 hex).

    Raises:
        FileNotFoundError: There is no such file.
    """
    weights = weights_file(place)
    found = hashlib.sha256()
    beside = [folder / name for folder in text_folders(place) for name in (WEIGHTS, CONFIG)]
    for path in (weights, weights.parent / CONFIG, *beside):
        if path == weights or (weights.name == WEIGHTS and path.is_file()):
            with path.open("rb") as stream:
                while block := stream.read(1 << 22):
                    found.update(block)
    return found.hexdigest()
