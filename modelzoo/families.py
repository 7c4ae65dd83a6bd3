"""All model families: the only place that knows every one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo.denoiser import Denoiser, init_denoiser, load_denoiser
from modelzoo.flux.v2 import presets as flux2_presets
from modelzoo.flux.v2.model import Flux2
from modelzoo.process.samplers import empirical_sigmas

Params = Mapping[str, Any]  # the section `model` of params.yaml


@dataclass(frozen=True)
class Family:
    """What the stages need to know of a family; every `Params` is the section `model`."""

    denoiser: type[Denoiser]
    folder: str  # of the denoiser in a diffusers folder
    network_config: Callable[[Params], Any]
    autoencoder_config: Callable[[Params], dict[str, Any]]  # vae/config.json
    text_encoder_config: Callable[[Params], dict[str, Any]]  # text_encoder/config.json
    scheduler_config: Callable[[Params], dict[str, Any]]  # scheduler/scheduler_config.json
    model_index: Callable[[Params], dict[str, Any]]  # model_index.json
    pipelines: frozenset[str]  # classes that the model_index.json of such a model names
    sigmas: Callable[[int, int], Tensor]  # steps, latent cells -> times of sampling (steps + 1,)


FAMILIES = {
    "flux2": Family(
        denoiser=Flux2,
        folder="transformer",
        network_config=flux2_presets.transformer_config,
        autoencoder_config=flux2_presets.autoencoder_config,
        text_encoder_config=flux2_presets.text_encoder_config,
        scheduler_config=flux2_presets.scheduler_config,
        model_index=flux2_presets.model_index,
        pipelines=frozenset({"Flux2Pipeline", "Flux2KleinPipeline"}),
        sigmas=empirical_sigmas,
    ),
}


def family(name: str) -> Family:
    """Look a family up by `model.type`.

    Raises:
        ValueError: There is no such family.
    """
    if name not in FAMILIES:
        raise ValueError(f"model.type: {name!r} cannot be built; use one of {sorted(FAMILIES)!r}")
    return FAMILIES[name]


def create_model(model: Params, seed: int = 0) -> Denoiser:
    """Build the denoiser of the section `model`: loaded from pretrained_path, or made from a seed.

    Raises:
        ValueError: The family is unknown, or the given weights have other sizes than the section.
    """
    kind = family(model["type"])
    dtype = getattr(torch, model.get("dtype") or "float32")
    if not model.get("pretrained_path"):
        denoiser = init_denoiser(kind.denoiser, kind.network_config(model), seed)
        denoiser.network.to(dtype)
        return denoiser
    folder = Path(model["pretrained_path"]) / kind.folder
    denoiser = load_denoiser(kind.denoiser, folder, dtype)
    if model.get("transformer"):
        asked, found = kind.network_config(model), denoiser.config
        if asked != found:
            raise ValueError(
                f"{folder}/config.json says {found}, but model.transformer asks for {asked}: "
                "make them equal, or leave model.transformer out"
            )
    return denoiser
