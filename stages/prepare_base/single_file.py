"""Make a whole base of one file, as FLUX.1, SDXL and others come, and a folder for the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from modelzoo import families
from modelzoo.autoencoders import autoencoder_from
from modelzoo.checkpoints.convert import write_folder
from modelzoo.checkpoints.folder import write_json
from modelzoo.checkpoints.single_file import SingleFile, open_single_file
from modelzoo.create import create_model
from modelzoo.text_encoders import TEXT_PARTS
from modelzoo.text_encoders.family import ENCODERS
from modelzoo.text_encoders.text_encoder import build_part
from stages.artifacts import read_json
from stages.params.model import Model
from stages.prepare_base.parts import INDEX, Base, check_family, part_names


def convert_file(model: Model, made: Path, home: Path) -> Base:
    """Write what `model.pretrained_path` holds as folders; the rest is in `model.components`.

    The networks of the file are loaded strictly before anything is written.

    Args:
        model: The section `model`, resolved.
        made: The folder to be made.
        home: Where it will be in the end.

    Raises:
        FileNotFoundError: A component is neither in the file nor in the folder.
        ValueError: The file is no such model, or does not fit its configuration.
    """
    path, rest = Path(str(model.pretrained_path)), Path(str(model.components))
    file = open_single_file(path, model.type)
    check_family(rest, model.type, "model.components")
    encoders = {kind: part.encoder for part in TEXT_PARTS[model.type] for kind in part.kinds}
    held = {encoders.get(name, name) for name in file.components}
    names = part_names(model.type, lambda name: name in held or (rest / name).is_dir())
    check_whole(model, held, names)
    check_networks(model, file)
    write_folder(file.components, made, model.type)
    index = read_json(rest / INDEX)
    write_json(index, made / INDEX)
    return Base(
        index,
        {name: (made if name in held else rest) / name for name in names},
        {name: (home if name in held else rest) / name for name in names},
    )


def check_whole(model: Model, held: set[str], names: list[str]) -> None:
    """Refuse a file without a denoiser, and a folder that does not complete it."""
    denoiser = families.family(model.type).folder
    if denoiser not in held:
        raise ValueError(
            f"model.pretrained_path: {model.pretrained_path!r} holds only {sorted(held)!r}: give "
            f"the file of the {denoiser}, which is what training changes"
        )
    rest = Path(str(model.components))
    if absent := [name for name in names if name not in held and not (rest / name).is_dir()]:
        raise FileNotFoundError(
            f"model.components: {str(rest)!r} has no {absent!r}, and {model.pretrained_path!r} "
            f"holds only {sorted(held)!r}: complete the folder"
        )


def check_networks(model: Model, file: SingleFile) -> None:
    """Load each network of the file from it, every key used, so that errors name the file."""
    dtype, encoders = getattr(torch, model.dtype), ENCODERS[model.type]
    create_model(dataclasses.asdict(model))
    for name, component in file.components.items():
        if name == "vae":
            autoencoder_from(*component, dtype)
        elif name in encoders:
            build_part(encoders[name], *component, dtype)
