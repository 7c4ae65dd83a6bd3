"""Describe the base model: for each component its class, its folder and its fingerprint.

The stages that follow depend on these small files, so that a new fingerprint of one component
reruns only what reads that component.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo import families
from modelzoo.checkpoints.digest import component_digest
from modelzoo.text_encoders import TEXT_PARTS, text_lengths
from stages.artifacts import read_json, staging
from stages.base_record import Part, write_record
from stages.launch import use_threads
from stages.params.model import Model
from stages.params.read import key
from stages.prepare_base.from_scratch import make_base
from stages.prepare_base.pretrained import INDEX, check_base

# component -> the file of its folders that names their class, and where in that file
COMPONENTS = {
    "vae": ("config.json", "_class_name"),
    "text_encoder": ("config.json", "architectures"),
    "tokenizer": ("tokenizer_config.json", "tokenizer_class"),
    "denoiser": ("config.json", "_class_name"),
    "scheduler": ("scheduler_config.json", "_class_name"),
}


@dataclass(frozen=True)
class Params:
    """Where the base comes from."""

    model: Model = key("model")
    seed: int = key("experiment.seed")
    threads: int = key("hardware.threads")
    caption_extension: str = key("data.caption_extension")


@dataclass(frozen=True)
class Artifacts:
    """One folder: a small JSON file a component, and under model/ the base if it is made here."""

    base: Path = Path("data/base")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Make or check the base, then write what it is."""
    use_threads(params.threads)
    model = dataclasses.asdict(params.model)
    with staging(artifacts.base) as staged:
        if params.model.pretrained_path is None:
            home, folder = artifacts.base / "model", staged / "model"
            make_base(model, params.caption_extension, params.seed, folder)
        else:
            home = folder = Path(params.model.pretrained_path)
            check_base(model)
        settings = text_settings(model, folder)
        for name, folders in component_folders(model["type"], folder).items():
            parts = {part: describe(name, folder / part, home / part) for part in folders}
            write_record(staged / f"{name}.json", parts, settings.get(name, {}))


def component_folders(family_name: str, model: Path) -> dict[str, tuple[str, ...]]:
    """Give the folders of each component in a diffusers model, text encoders in their order."""
    text = [part for part in TEXT_PARTS[family_name] if (model / part.encoder).is_dir()]
    return {
        "vae": ("vae",),
        "text_encoder": tuple(part.encoder for part in text),
        "tokenizer": tuple(part.tokenizer for part in text),
        "denoiser": (families.family(family_name).folder,),
        "scheduler": ("scheduler",),
    }


def text_settings(model: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Say what of the parameters and the model's index changes what prompts become."""
    zero_empty = read_json(folder / INDEX).get("force_zeros_for_empty_prompt", False)
    return {
        "tokenizer": {"lengths": text_lengths(model)},
        "text_encoder": {"zero_empty": bool(zero_empty)},
    }


def describe(name: str, folder: Path, home: Path) -> Part:
    """Name the class, the place (`home`, once all is written) and the fingerprint of a folder.

    Raises:
        FileNotFoundError: The component is not there.
    """
    file, place = COMPONENTS[name]
    if not (folder / file).is_file():
        raise FileNotFoundError(
            f"{home}: there is no {file}: give a whole folder in the diffusers layout"
        )
    named: Any = read_json(folder / file).get(place)
    class_name = named[0] if isinstance(named, list) else named
    return Part(str(class_name), home, component_digest(folder))
