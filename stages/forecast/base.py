"""The configurations of a base, whether its weights are here or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo.checkpoints.folder import read_config
from modelzoo.families import Family, family
from modelzoo.text_encoders import TEXT_PARTS
from modelzoo.text_encoders.configs import text_part_configs
from stages.artifacts import read_json
from stages.base_record import read_record
from stages.needs import Asked

SCHEDULER = "scheduler_config.json"
CLIP_WORDS = 49408  # of the released tokenizers


@dataclass(frozen=True)
class Base:
    """What a base is made of, without weights."""

    kind: Family
    denoiser: Any  # configuration of the network, kind.denoiser.CONFIG
    autoencoder: Mapping[str, Any]  # vae/config.json
    scheduler: Mapping[str, Any]  # scheduler/scheduler_config.json


def base_of(asked: Asked, name: str) -> Base:
    """Read the configurations of the base of family `name`.

    Raises:
        FileNotFoundError: One is not where it should be.
        ValueError: The sizes that the section `model` gives are not those of a model.
    """
    kind = family(name)
    if asked.records is not None:
        records = Path(asked.records)
        folders = {
            folder: path
            for part in ("denoiser", "vae", "scheduler")
            for folder, path in read_record(records / f"{part}.json").folders.items()
        }
    elif asked.folder is not None:
        folders = {name: Path(asked.folder) / name for name in (kind.folder, "vae", "scheduler")}
    else:
        section = asked.section
        autoencoder, scheduler = kind.autoencoder_config(section), kind.scheduler_config(section)
        return Base(kind, kind.network_config(section), autoencoder, scheduler)
    return Base(
        kind=kind,
        denoiser=kind.denoiser.CONFIG.from_dict(read_config(folders[kind.folder])),
        autoencoder=read_config(folders["vae"]),
        scheduler=read_json(folders["scheduler"] / SCHEDULER),
    )


def text_configs(asked: Asked, name: str) -> dict[str, Mapping[str, Any]]:
    """Read the configurations of those text encoders of family `name` that may learn, by folder.

    Raises:
        FileNotFoundError: One is not where it should be.
        ValueError: The section `model` does not say their sizes.
    """
    learning = [part for part in TEXT_PARTS[name] if part.learns]
    if asked.records is None and asked.folder is None:
        recipe = asked.section.get("from_scratch") or {"vocab_size": CLIP_WORDS}
        configs = text_part_configs({**asked.section, "from_scratch": recipe})
        return {part.encoder: configs[part.kinds[0]] for part in learning}
    if asked.records is not None:
        folders = read_record(Path(asked.records) / "text_encoder.json").folders
    else:
        folders = {part.encoder: Path(str(asked.folder)) / part.encoder for part in learning}
    return {part.encoder: read_config(folders[part.encoder]) for part in learning}
