"""From the section `model` of the parameters to a denoiser, made or loaded from any layout."""

from __future__ import annotations

from pathlib import Path

import torch

from modelzoo.checkpoints.single_file import open_single_file
from modelzoo.denoiser import Denoiser, denoiser_from, init_denoiser, load_denoiser
from modelzoo.families import family
from modelzoo.sections import Params


def create_model(model: Params, seed: int = 0) -> Denoiser:
    """Build the denoiser of the section `model`: loaded from pretrained_path, or made from a seed.

    pretrained_path is a folder in the diffusers layout, or one safetensors file in any layout that
    `modelzoo.checkpoints.single_file` knows.

    Raises:
        FileNotFoundError: pretrained_path is not there or not complete.
        ValueError: The family is unknown, or the given weights have other sizes than the section.
    """
    kind = family(model["type"])
    dtype = getattr(torch, model.get("dtype") or "float32")
    if not model.get("pretrained_path"):
        denoiser = init_denoiser(kind.denoiser, kind.network_config(model), seed)
        denoiser.network.to(dtype)
        return denoiser
    path = Path(model["pretrained_path"])
    if path.is_file():
        components = open_single_file(path, model["type"]).components
        denoiser = denoiser_from(kind.denoiser, *components[kind.folder], dtype)
    else:
        denoiser = load_denoiser(kind.denoiser, path / kind.folder, dtype)
    if model.get(kind.folder):
        asked, found = kind.network_config(model), denoiser.config
        if asked != found:
            raise ValueError(
                f"{path} holds {found}, but model.{kind.folder} asks for {asked}: "
                f"make them equal, or leave model.{kind.folder} out"
            )
    return denoiser
