"""Pins: small files that say which commit of a Hugging Face repository is the base model.

dvc.yaml depends on `model.source`, which must be a path; for a Hugging Face id it is the pin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelzoo.checkpoints import hub
from stages.artifacts import read_json, write_json
from stages.params.model import SINGLE_FILE, Model

FOLDER = Path("params/pins")


@dataclass(frozen=True)
class Pin:
    """What was asked for, and what it meant then."""

    repo: str  # owner/name
    requested: str  # branch, tag or commit in model.pretrained_path; main where it has none
    revision: str  # the commit, or what was requested where nobody could say which that is

    @property
    def name(self) -> str:
        """owner/name@revision."""
        return f"{self.repo}@{self.revision}"


def source(model: Model) -> str | None:
    """Say what the base is made from, as a path: a dataset, a folder, a file or a pin.

    owner/name is a Hugging Face id unless there is a folder `owner` here; owner/name@revision
    always is. Once written, what it was taken for stays.
    """
    if model.from_scratch is not None:
        return model.from_scratch.dataset
    given = model.pretrained_path
    if given is None or not hub.is_repo(given):
        return given
    pin = path(given).as_posix()
    if model.source in (given, pin):
        return model.source
    is_local = "@" not in given and (Path(given).parent.exists() or given.endswith(SINGLE_FILE))
    return given if is_local else pin


def is_pinned(model: Model) -> bool:
    """Tell whether the base of resolved parameters is a Hugging Face repository."""
    return model.source is not None and Path(model.source).parent == FOLDER


def path(name: str) -> Path:
    """Name the pin of owner/name or owner/name@revision."""
    repo, _ = hub.parse(name)
    return FOLDER / f"{repo.replace('/', '--')}.json"


def write_pin(model: Model) -> None:
    """Ask Hugging Face which commit `model.pretrained_path` is; a commit once pinned stays.

    Raises:
        ValueError: There is no such model or revision, or it is not in the diffusers layout.
    """
    name = str(model.pretrained_path)
    repo, requested = hub.parse(name)
    pin = _read(path(name)) if path(name).is_file() else None
    if pin is not None and _is_of(pin, name) and hub.COMMIT.fullmatch(pin.revision):
        return
    revision = hub.commit_of(name) or requested
    write_json(path(name), {"repo": repo, "requested": requested, "revision": revision})


def read_pin(model: Model) -> Pin:
    """Read the pin that `model.source` names.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is of another model or revision than `model.pretrained_path`.
    """
    pin, name = _read(Path(str(model.source))), str(model.pretrained_path)
    if not _is_of(pin, name):
        raise ValueError(
            f"{model.source} is the pin of '{pin.repo}@{pin.requested}', but model.pretrained_path "
            f"is {name!r}: write both again with `python -m stages.params use FILE [key=value ...]`"
        )
    return pin


def _is_of(pin: Pin, name: str) -> bool:
    return (pin.repo, pin.requested) == hub.parse(name)


def _read(file: Path) -> Pin:
    if not file.is_file():
        raise FileNotFoundError(
            f"model.source: {str(file)!r} is not there, which says which commit of the Hugging "
            "Face model is meant: restore it, or write it again with `python -m stages.params use`"
        )
    try:
        return Pin(**read_json(file))
    except TypeError:
        raise ValueError(
            f"{file} does not hold just repo, requested and revision: remove it and write it again "
            "with `python -m stages.params use`"
        ) from None
