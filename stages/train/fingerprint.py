"""What determines the weights, as one digest: equal fingerprints, equal weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

import modelzoo
from stages.artifacts import sha256_file
from stages.base_record import read_record
from stages.params.read import canonical
from stages.params.training import Training

SHARED = (
    "batch_sizes.py",
    "class_images.py",
    "randomness.py",
    "tokenizers.py",
)  # of stages: what decides a batch, for others too
OPENING = (  # of stages, too, where training opens and encodes the pictures itself
    "bucketed_pictures.py",
    "dataset/cells.py",
    "dataset/files.py",
    "dataset/tars.py",
    "encoding/batch.py",
    "known_pictures.py",
    "picture_encoding.py",
    "picture_rows.py",
    "pixels.py",
    "visit_geometry.py",
)
UNUSED = (  # of modelzoo: what encodes, samples, converts and checks, but never trains
    "__init__.py",
    "adapters/attach.py",
    "checkpoints/convert.py",
    "checkpoints/digest.py",
    "checkpoints/layouts/clip.py",
    "checkpoints/layouts/places.py",
    "checkpoints/layouts/text.py",
    "checkpoints/layouts/vae.py",
    "checkpoints/single_file.py",
    "create.py",
    "process/ddpm_paths.py",
    "process/defaults.py",
    "process/processes.py",
    "process/samplers.py",
    "text_encoders/configs.py",
    "text_encoders/from_scratch.py",
    "text_encoders/tokenizer_training.py",
)


def parts_of(
    tables: Iterable[Path],
    base: Iterable[Path],
    training: Training,
    settings: Mapping[str, Any],
    start: Path | None = None,
    opens_pictures: bool = False,
) -> dict[str, Any]:
    """Name the data, the base, the parameters and the code that training depends on.

    Code counts, or a checkpoint of the code before an edit would pass for the edited code's.
    How often checkpoints are written and which is used does not count: the training is the same.

    Args:
        tables: The manifests of latents, prompts and captions.
        base: The records of what of the base is trained or says how.
        training: The section `training`.
        settings: Whatever else changes the weights' bits, by its key: seed, dtype, threads.
        start: The facts of the checkpoint to go on from, of another folder.
        opens_pictures: Whether no rows of pictures are cached, see `live_latents`.
    """
    counted = canonical(dataclasses.asdict(training))
    del counted["checkpoint"]
    resumed = {} if start is None else {"resumed_from": sha256_file(start)}
    return resumed | {
        "tables": {path.name: sha256_file(path) for path in tables},
        "base": {path.name: read_record(path).digest for path in base},
        "training": counted,
        "settings": canonical(settings),
        "code": _code_digest(SHARED + OPENING if opens_pictures else SHARED),
        "torch": torch.__version__.partition("+")[0],  # whichever wheel
    }


def fingerprint(parts: Mapping[str, Any]) -> str:
    """Hash what training depends on (sha256 hex)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def outcome(fingerprint: str, use: str) -> str:
    """Return the fingerprint of the weights that are used: the last ones have the training's."""
    if use == "last":
        return fingerprint
    return hashlib.sha256(f"{fingerprint} {use}".encode()).hexdigest()


def code(shared: Iterable[str] = SHARED) -> list[Path]:
    """List the files of batches, trainer and denoisers, no more than dvc.yaml reruns training for.

    More would put a fingerprint into the outputs that changes while they stand.
    """
    trainer, models = Path(__file__).parent, Path(modelzoo.__file__).parent
    return [trainer.parent / name for name in shared] + [
        path
        for package in (trainer, models)
        for path in sorted(package.rglob("*.py"))
        if not any(path.is_relative_to(models / unused) for unused in UNUSED)
    ]


def _code_digest(shared: Iterable[str]) -> str:
    root = Path(modelzoo.__file__).parents[1]
    lines = [f"{path.relative_to(root).as_posix()} {sha256_file(path)}\n" for path in code(shared)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
