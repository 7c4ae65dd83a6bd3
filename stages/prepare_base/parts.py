"""Where the parts of a base model lie, by their names in the diffusers layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo import families
from modelzoo.text_encoders import TEXT_PARTS
from stages.artifacts import read_json

INDEX = "model_index.json"


@dataclass(frozen=True)
class Base:
    """A base model, wherever it came from."""

    index: Mapping[str, Any]  # its model_index.json
    folders: Mapping[str, Path]  # of its parts, as they are read now
    homes: Mapping[str, Path]  # of its parts, as the records name them for the stages that follow


def in_folder(family: str, folder: Path, home: Path) -> Base:
    """Describe a base whose parts lie side by side; `home` is where `folder` will be in the end."""
    names = part_names(family, lambda name: (folder / name).is_dir())
    return Base(
        read_json(folder / INDEX),
        {name: folder / name for name in names},
        {name: home / name for name in names},
    )


def part_names(family: str, has: Callable[[str], bool]) -> list[str]:
    """List the parts of a model; `has` tells whether an optional one is there."""
    names = [families.family(family).folder, "vae", "scheduler"]
    for part in TEXT_PARTS[family]:
        if not part.is_optional or has(part.encoder):
            names += [part.tokenizer, part.encoder]
    return names


def check_family(folder: Path, family: str, key: str) -> None:
    """Compare the pipeline that model_index.json names with the family's; `key` named the folder.

    Raises:
        FileNotFoundError: There is no model_index.json.
        ValueError: The pipeline is of another family.
    """
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"{key}: {str(folder)!r} has no {INDEX}: give a folder in the diffusers layout, with "
            "one folder for each component"
        )
    pipeline = read_json(folder / INDEX).get("_class_name")
    allowed = families.family(family).pipelines
    if pipeline not in allowed:
        raise ValueError(
            f"{key}: {str(folder)!r} holds a {pipeline!r}, but model.type {family!r} needs one of "
            f"{sorted(allowed)!r}: change model.type or the folder"
        )
