"""What a LoRA of whatever program holds of text encoders."""

from __future__ import annotations

from pathlib import Path

from modelzoo.adapters.files import PEFT_PREFIX
from modelzoo.adapters.found import WEIGHTS, text_folders, weights_file
from modelzoo.adapters.pairs import (
    Pair,
    config_of_file,
    halves_of,
    own_layers,
    split,
    text_place,
)
from modelzoo.adapters.text import Parts


def read_text_pairs(place: Path, parts: Parts, family: str) -> dict[str, dict[str, Pair]]:
    """Read a LoRA's pairs of text encoders, by folder and layer.

    A pair of a layer that no row of the family depends on, as the last of SDXL's CLIP-L, is left
    out; every other is used.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A key is of no layer of these text encoders.
    """
    pairs: dict[str, dict[str, Pair]] = {folder: {} for folder in parts}
    layers = {folder: own_layers(part) for folder, part in parts.items()}
    for file, own in _files(place):
        for name, halves in halves_of(file, family).items():
            found = (own, name.removeprefix(PEFT_PREFIX)) if own else text_place(name)
            if found is None:
                continue  # of the denoiser
            folder, layer = found
            if folder not in parts:
                raise ValueError(
                    f"{file}: {name!r} is of a text encoder that has no adapters here: give a LoRA "
                    f"of {' and '.join(parts)} alone"
                )
            known = parts[folder].own_name(f"{layer}.weight")
            if known is None:
                continue
            home = layers[folder].get(known.removesuffix(".weight"))
            if home is None:
                raise ValueError(
                    f"{file}: {name!r} is no layer of the {folder} of model.type {family!r}: give "
                    "a LoRA of that family"
                )
            config = config_of_file(file, "" if own else folder)
            pairs[folder].update(split(home, halves, config, f"{file}: {name!r}"))
    return pairs


def _files(place: Path) -> list[tuple[Path, str]]:
    """List the file of a LoRA and, of a folder of ours, those of single text encoders."""
    inside = [(folder / WEIGHTS, folder.name) for folder in text_folders(place)]
    return [(weights_file(place), ""), *inside]
