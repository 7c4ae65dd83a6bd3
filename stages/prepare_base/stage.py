"""Describe the base model: for each component its class, its folder and its fingerprint.

The stages that follow depend on these small files, so that a new fingerprint of one component
reruns only what reads that component.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo.checkpoints.digest import component_digest
from modelzoo.text_encoders import text_lengths
from stages.artifacts import read_json, staging
from stages.base_record import Part, write_record
from stages.launch import use_threads
from stages.params.model import Model
from stages.params.read import key
from stages.prepare_base.from_scratch import make_base
from stages.prepare_base.parts import Base, in_folder
from stages.prepare_base.pretrained import given_base
from stages.prepare_base.scheduler import with_schedule

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
    """One folder: a small JSON file a component, and under model/ what of the base is made here."""

    base: Path = Path("data/base")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Make or check the base, then write what it is."""
    use_threads(params.threads)
    model = dataclasses.asdict(params.model)
    with staging(artifacts.base) as staged:
        staged.mkdir()
        made, home = staged / "model", artifacts.base / "model"
        if params.model.pretrained_path is None:
            make_base(model, params.caption_extension, params.seed, made)
            base = in_folder(params.model.type, made, home)
        else:
            base = given_base(params.model, made, home)
        base = with_schedule(base, params.model.scheduler, made, home)
        settings = text_settings(model, base.index)
        for name, names in components(base).items():
            parts = {part: describe(name, base.folders[part], base.homes[part]) for part in names}
            write_record(staged / f"{name}.json", parts, settings.get(name, {}))


def components(base: Base) -> dict[str, list[str]]:
    """Group the parts of a base by the component they belong to, in their order."""
    grouped: dict[str, list[str]] = {name: [] for name in COMPONENTS}
    for part in base.folders:
        kind = re.sub(r"_\d$", "", part)
        grouped[kind if kind in COMPONENTS else "denoiser"].append(part)
    return grouped


def text_settings(model: Mapping[str, Any], index: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Say what of the parameters and of model_index.json changes what prompts become."""
    return {
        "tokenizer": {"lengths": text_lengths(model)},
        "text_encoder": {"zero_empty": bool(index.get("force_zeros_for_empty_prompt", False))},
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
