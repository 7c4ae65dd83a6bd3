"""All model families: the only place that knows every one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo.flux.v2 import presets as flux2_presets
from modelzoo.flux.v2 import weights as flux2_weights
from modelzoo.flux.v2.model import Flux2
from modelzoo.process.samplers import empirical_sigmas

Denoiser = Flux2  # a union, once there are several
Params = Mapping[str, Any]  # the section `model` of params.yaml


@dataclass(frozen=True)
class Family:
    """What the stages need to know of a family; every `Params` is the section `model`."""

    transformer_config: Callable[[Params], Any]
    autoencoder_config: Callable[[Params], dict[str, Any]]  # vae/config.json
    text_encoder_config: Callable[[Params], dict[str, Any]]  # text_encoder/config.json
    scheduler_config: Callable[[Params], dict[str, Any]]  # scheduler/scheduler_config.json
    model_index: Callable[[Params], dict[str, Any]]  # model_index.json
    pipelines: frozenset[str]  # classes that the model_index.json of such a model names
    sigmas: Callable[[int, int], Tensor]  # steps, latent cells -> times of sampling (steps + 1,)
    init_denoiser: Callable[[Any, int], Denoiser]  # transformer config, seed
    load_denoiser: Callable[[Path, torch.dtype], Denoiser]
    save_denoiser: Callable[[Denoiser, Path], None]


FAMILIES = {
    "flux2": Family(
        transformer_config=flux2_presets.transformer_config,
        autoencoder_config=flux2_presets.autoencoder_config,
        text_encoder_config=flux2_presets.text_encoder_config,
        scheduler_config=flux2_presets.scheduler_config,
        model_index=flux2_presets.model_index,
        pipelines=frozenset({"Flux2Pipeline", "Flux2KleinPipeline"}),
        sigmas=empirical_sigmas,
        init_denoiser=flux2_weights.init_denoiser,
        load_denoiser=flux2_weights.load_denoiser,
        save_denoiser=flux2_weights.save_denoiser,
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
        denoiser = kind.init_denoiser(kind.transformer_config(model), seed)
        denoiser.transformer.to(dtype)
        return denoiser
    folder = Path(model["pretrained_path"]) / "transformer"
    denoiser = kind.load_denoiser(folder, dtype)
    if model.get("transformer"):
        asked, found = kind.transformer_config(model), denoiser.transformer.config
        if asked != found:
            raise ValueError(
                f"{folder}/config.json says {found}, but model.transformer asks for {asked}: "
                "make them equal, or leave model.transformer out"
            )
    return denoiser
