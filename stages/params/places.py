"""Whether the folders that the parameters name are there, or will be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from stages.params import document
from stages.params.config import Config


def check_places(config: Config, where: str) -> None:
    """Check every named folder, relative to the current one.

    Raises:
        ValueError: A Hugging Face id where a folder is needed.
        FileNotFoundError: A folder that is not there and that no DVC stage makes.
    """
    pretrained = config.model.pretrained_path
    if pretrained and re.fullmatch(r"[\w.-]+/[\w.-]+", pretrained) and not _is_known(pretrained):
        raise ValueError(
            f"{where}: model.pretrained_path: {pretrained!r} is not a folder here, and "
            "a Hugging Face id cannot be loaded yet: download the repository in its diffusers "
            "layout and give that folder"
        )
    for key, folder in _named(config):
        if Path(folder).is_file():
            raise ValueError(f"{where}: {key}: {folder!r} is a file: give a folder")
        if not _is_known(folder):
            raise FileNotFoundError(
                f"{where}: {key}: {folder!r} is not there, and no dvc.yaml or .dvc file beside it "
                "makes it: put the folder there, or set the key to one that exists"
            )


def _named(config: Config) -> Iterator[tuple[str, str]]:
    yield "data.train_path", config.data.train_path
    if config.model.pretrained_path is not None:
        yield "model.pretrained_path", config.model.pretrained_path
    if config.model.from_scratch is not None:
        yield "model.from_scratch.dataset", config.model.from_scratch.dataset
    if config.evaluate.judge is not None and config.evaluate.judge_path is not None:
        yield "evaluate.judge_path", config.evaluate.judge_path


def _is_known(folder: str) -> bool:
    """Tell whether a path exists, is `dvc add`ed, or is made by a dvc.yaml in a folder above it."""
    path = Path(os.path.normpath(folder))
    if path.exists() or Path(f"{path}.dvc").is_file():
        return True
    makers = (above / "dvc.yaml" for above in path.parents if above != Path())
    return any(path in _outs(maker) for maker in makers if maker.is_file())


def _outs(maker: Path) -> set[Path]:
    """List what the stages of a dvc.yaml make, relative to the current folder."""
    made = set()
    for stage in (document.load(maker).get("stages") or {}).values():
        folder = maker.parent / stage.get("wdir", ".")
        for out in stage.get("outs", []):
            name = out if isinstance(out, str) else next(iter(out))
            made.add(Path(os.path.normpath(folder / name)))
    return made
