"""Describe the base model: for each component its class, its folder and its fingerprint.

The stages that follow depend on these small files, so that a new fingerprint of one component
reruns only what reads that component.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo.checkpoints.digest import component_digest
from stages.artifacts import read_json, staging, write_json
from stages.launch import use_threads
from stages.params.model import Model
from stages.params.read import key
from stages.prepare_base.from_scratch import make_base
from stages.prepare_base.pretrained import check_base

# component -> the file of its folder that names its class, and where in that file
COMPONENTS = {
    "vae": ("config.json", "_class_name"),
    "text_encoder": ("config.json", "architectures"),
    "tokenizer": ("tokenizer_config.json", "tokenizer_class"),
    "transformer": ("config.json", "_class_name"),
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
        for name in COMPONENTS:
            write_json(staged / f"{name}.json", describe(name, folder / name, home / name))


def describe(name: str, folder: Path, home: Path) -> dict[str, str]:
    """Name the class, the place (`home`, once all is written) and the fingerprint of a component.

    Raises:
        FileNotFoundError: The component is not there.
    """
    file, place = COMPONENTS[name]
    if not (folder / file).is_file():
        raise FileNotFoundError(
            f"{home}: there is no {file}: give a folder in the diffusers layout with "
            f"{', '.join(COMPONENTS)}"
        )
    named: Any = read_json(folder / file).get(place)
    class_name = named[0] if isinstance(named, list) else named
    return {
        "class_name": str(class_name),
        "path": home.as_posix(),
        "digest": component_digest(folder),
    }
