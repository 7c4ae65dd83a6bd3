"""What a training was made of, beside its checkpoints: to refuse another's, and to name changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.artifacts import read_json, write_json
from stages.train.checkpoints import FACTS, FINISHED
from stages.train.progress import say

PARAMETERS = "parameters.json"
KEY = "params.yaml: training.checkpoint.resume_from"
MAX_NAMED = 8  # differences in a sentence
ABSENT = "nothing"

Parts = Mapping[str, Any]  # see fingerprint.parts_of


def starting_point(given: str | None) -> Path | None:
    """Return the checkpoint that `training.checkpoint.resume_from` names.

    Args:
        given: The folder of a checkpoint, or of a training, whose newest one is meant.

    Raises:
        ValueError: There is none.
    """
    if given is None:
        return None
    if (Path(given) / FACTS).is_file():
        return Path(given)
    steps = sorted(path for path in Path(given).glob("step-*") if (path / FACTS).is_file())
    if not steps:
        raise ValueError(
            f"{KEY}: {given!r} given, but no checkpoint is there: give a folder step-... or the "
            "one that holds them, or null"
        )
    return steps[-1]


def refuse_other(start: Path, parts: Parts) -> None:
    """Compare what the training of checkpoint `start` is made of with `parts`.

    Another state of the code is no reason to refuse: going on after an edit is what it is for.

    Raises:
        ValueError: A parameter, the data or the base differs.
    """
    file = start.parent / PARAMETERS
    if not file.is_file():
        raise ValueError(
            f"{KEY}: {start} given, but {file} is not there, which says what that training was "
            "made of: give a checkpoint where it was written"
        )
    theirs = read_json(file)
    if found := list(differences(parts, theirs)):
        raise ValueError(
            f"{KEY}: {start} is of another training, which differs in {_listed(found)}: set these "
            "as they were there, or resume_from to null to train anew"
        )
    changed = [name for name in ("code", "torch") if parts[name] != theirs[name]]
    if changed:
        say(f"note: {start} was written by other {' and '.join(changed)}")


def announce(folder: Path, experiment: str, parts: Parts) -> None:
    """Write into a new training's folder what it is made of.

    Where an unfinished training of the same experiment is found, the newest, say what is different
    now: it is why that one is not gone on with.
    """
    file = folder / PARAMETERS
    if file.exists():
        return
    if (other := _newest_unfinished(folder, experiment)) is not None:
        newest = max(other.glob("step-*")).name
        found = [
            *differences(parts, theirs := read_json(other / PARAMETERS)),
            *(f"the {name}" for name in ("code", "torch") if parts[name] != theirs[name]),
        ]
        say(
            f"starting anew: the unfinished training in {other} ({newest}) of the same experiment "
            f"differs in {_listed(found)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, {"experiment": experiment, **parts})


def differences(ours: Parts, theirs: Parts) -> Iterator[str]:
    """Name each parameter and file that is not the same."""
    here, there = _flat(ours), _flat(theirs)
    for name in sorted({**here, **there}):
        mine, other = here.get(name, ABSENT), there.get(name, ABSENT)
        if mine != other and name.startswith("data/"):
            yield f"{name} (other content)"
        elif mine != other:
            yield f"{name} ({_shown(other)} there, {_shown(mine)} here)"


def _flat(parts: Parts) -> dict[str, Any]:
    """Give each parameter its dotted key and each file its path."""
    flat = dict(parts["settings"])
    flat |= {f"data/{name}": digest for name, digest in parts["tables"].items()}
    flat |= {f"data/base/{name}": digest for name, digest in parts["base"].items()}
    flat |= _dotted("training", parts["training"])
    return flat


def _dotted(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, below in value.items():
        flat |= _dotted(f"{prefix}.{name}", below)
    return flat


def _newest_unfinished(folder: Path, experiment: str) -> Path | None:
    others = [
        path.parent
        for path in folder.parent.glob(f"*/{PARAMETERS}")
        if path.parent != folder
        and not (path.parent / FINISHED).exists()
        and any(path.parent.glob("step-*"))
        and read_json(path)["experiment"] == experiment
    ]
    return max(others, key=lambda path: max(path.glob("step-*")).stat().st_mtime, default=None)


def _listed(found: list[str]) -> str:
    more = len(found) - MAX_NAMED
    return ", ".join(found[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _shown(value: Any) -> str:
    return value if value is ABSENT else json.dumps(value)
