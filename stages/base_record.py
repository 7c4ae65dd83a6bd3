"""The records of a base model's components, by which the stages meet: folders and fingerprints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo.checkpoints import hub
from stages.artifacts import read_json, sha256_text, write_json

HUB = "hub:"  # how the place of a part on Hugging Face begins: hub:owner/name@commit/vae


@dataclass(frozen=True)
class Part:
    """One folder of a component."""

    class_name: str
    path: Path  # a folder; or hub:..., which is the same on every machine
    digest: str  # of its configuration and tensors, however they are laid out

    @property
    def folder(self) -> Path:
        """The folder on this machine; what is on Hugging Face and not here yet is downloaded.

        Raises:
            FileNotFoundError: It is not here, and Hugging Face cannot be reached.
        """
        place = self.path.as_posix()
        if not place.startswith(HUB):
            return self.path
        repo, name = place.removeprefix(HUB).rsplit("/", 1)
        return hub.download(repo, [name]) / name


@dataclass(frozen=True)
class Record:
    """A component: one folder, or several where a family has several text encoders."""

    parts: Mapping[str, Part]  # by the folder's name in the diffusers layout
    settings: Mapping[str, Any]  # what of the model's parameters changes what the component gives
    digest: str  # of all of it

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each part on this machine."""
        return {name: part.folder for name, part in self.parts.items()}


def hub_home(repo: str, commit: str) -> Path:
    """Name the place of a model on Hugging Face, to which the names of parts are joined."""
    return Path(f"{HUB}{repo}@{commit}")


def write_record(path: Path, parts: Mapping[str, Part], settings: Mapping[str, Any]) -> None:
    """Write a record as a small JSON file."""
    counted = {name: part.digest for name, part in parts.items()}
    digest = sha256_text(json.dumps([counted, settings], sort_keys=True))
    described = {
        name: {"class_name": part.class_name, "path": part.path.as_posix(), "digest": part.digest}
        for name, part in parts.items()
    }
    write_json(path, {"digest": digest, "parts": described, "settings": dict(settings)})


def read_record(path: Path) -> Record:
    """Read a record that `write_record` wrote."""
    values = read_json(path)
    parts = {
        name: Part(part["class_name"], Path(part["path"]), part["digest"])
        for name, part in values["parts"].items()
    }
    return Record(parts, values["settings"], values["digest"])
