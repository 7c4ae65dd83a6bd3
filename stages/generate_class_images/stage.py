"""Make the pictures of the class that DreamBooth preserves, with the untrained base."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stages.artifacts import staging
from stages.class_images import FOLDER, ClassPicture, Prior, write_index
from stages.generate_class_images.kept import picture_name
from stages.params.methods import Dreambooth
from stages.params.read import key


@dataclass(frozen=True)
class Params:
    """Of what and how pictures are made, and where they are kept."""

    method: str = key("training.method")
    dreambooth: Dreambooth | None = key("training.dreambooth")
    resolution: int = key("data.resolution")
    family: str = key("model.type")
    variant: str | None = key("model.variant")
    dtype: str = key("model.dtype")
    threads: int = key("hardware.threads")
    store: str | None = key("data.store", tracked=False)


@dataclass(frozen=True)
class Artifacts:
    """The base in; the pictures and their index out."""

    base: Path = Path("data/base")
    output: Path = FOLDER


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Make what pictures are missing and lay them out with their index; usually there are none."""
    settings = params.dreambooth
    if params.method != "dreambooth" or settings is None:
        _lay_out(artifacts.output, Prior(), [])
        return
    prior = Prior(settings.prior, settings.instance_prompt, settings.class_prompt)
    if settings.prior != "images" or not settings.num_class_images:
        _lay_out(artifacts.output, prior, [])
        return
    from stages.generate_class_images.making import complete  # torch: only who needs it waits

    kept, prompts, num_made = complete(params, settings, artifacts.base)
    pictures = [ClassPicture(picture_name(i), prompt) for i, prompt in enumerate(prompts)]
    _lay_out(artifacts.output, replace(prior, pictures=pictures), kept)
    print(f"made {num_made} of {len(kept)} pictures of the class: {artifacts.output}")  # noqa: T201


def _lay_out(folder: Path, prior: Prior, kept: Sequence[Path]) -> None:
    """Copy pictures, not link them: an edited copy must not change what is kept for others."""
    with staging(folder) as staged:
        staged.mkdir()
        for path in kept:
            shutil.copyfile(path, staged / path.name)
        write_index(staged, prior)
