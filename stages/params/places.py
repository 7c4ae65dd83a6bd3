"""Whether the folders and files that the parameters name are there, or will be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from modelzoo.checkpoints import hub
from stages.params import document, pins
from stages.params.config import Config
from stages.params.model import SINGLE_FILE, Model


def check_places(config: Config, where: str) -> None:
    """Check every named folder, relative to the current one, and the file or folder of the base.

    Raises:
        ValueError: A file where a folder is needed, or the reverse.
        FileNotFoundError: A place that is not there and that no DVC stage makes.
    """
    _check_base(config.model, where)
    for key, folder in _named(config):
        if Path(folder).is_file():
            raise ValueError(f"{where}: {key}: {folder!r} is a file: give a folder")
        if not _is_known(folder):
            raise FileNotFoundError(_absent(where, key, folder))


def _check_base(model: Model, where: str) -> None:
    given, key = model.pretrained_path, "model.pretrained_path"
    if given is None or pins.is_pinned(model):
        return
    if not _is_known(given):
        hint = f"; for a Hugging Face id say {given}@main" if hub.is_repo(given) else ""
        raise FileNotFoundError(_absent(where, key, given) + hint)
    if model.is_single_file and Path(given).is_dir():
        raise ValueError(
            f"{where}: {key}: {given!r} is a folder: give a file, or rename the folder"
        )
    if not model.is_single_file and Path(given).is_file():
        raise ValueError(
            f"{where}: {key}: {given!r} is a file: give a diffusers folder, a Hugging Face id or "
            f"one {SINGLE_FILE} file (a pickle such as .ckpt runs whatever code it holds, so none "
            "is read)"
        )


def _named(config: Config) -> Iterator[tuple[str, str]]:
    yield "data.train_path", config.data.train_path
    if config.model.is_single_file and config.model.components is not None:
        yield "model.components", config.model.components
    if config.model.from_scratch is not None:
        yield "model.from_scratch.dataset", config.model.from_scratch.dataset
    if config.sample.names_pictures and config.sample.pictures is not None:
        yield "sample.pictures", config.sample.pictures
    asked = config.training.controlnet
    if asked is not None and asked.depth_model is not None and not hub.is_repo(asked.depth_model):
        yield "training.controlnet.depth_model", asked.depth_model
    if config.evaluate.judge is not None and config.evaluate.judge_path is not None:
        yield "evaluate.judge_path", config.evaluate.judge_path


def _absent(where: str, key: str, place: str) -> str:
    return (
        f"{where}: {key}: {place!r} is not there, and no dvc.yaml or .dvc file beside it makes it: "
        "put it there, or set the key to one that exists"
    )


def _is_known(folder: str) -> bool:
    """Tell whether a path exists, or is in what is `dvc add`ed or a dvc.yaml above it makes."""
    path = Path(os.path.normpath(folder))
    wholes = [path, *path.parents]
    if path.exists() or any(Path(f"{whole}.dvc").is_file() for whole in wholes):
        return True
    makers = (above / "dvc.yaml" for above in path.parents if above != Path())
    return any(not _outs(maker).isdisjoint(wholes) for maker in makers if maker.is_file())


def _outs(maker: Path) -> set[Path]:
    """List what the stages of a dvc.yaml make, relative to the current folder."""
    made = set()
    for stage in (document.load(maker).get("stages") or {}).values():
        folder = maker.parent / stage.get("wdir", ".")
        for out in stage.get("outs", []):
            name = out if isinstance(out, str) else next(iter(out))
            made.add(Path(os.path.normpath(folder / name)))
    return made
