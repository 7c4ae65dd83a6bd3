"""All model families: the only place that knows every one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelzoo.denoiser import Denoiser
from modelzoo.flux.v1 import presets as flux1
from modelzoo.flux.v1.model import Flux1
from modelzoo.flux.v2 import presets as flux2
from modelzoo.flux.v2.model import Flux2
from modelzoo.sd3 import presets as sd3
from modelzoo.sd3.model import SD3
from modelzoo.sdxl import presets as sdxl
from modelzoo.sdxl.model import SDXL
from modelzoo.sections import Params


@dataclass(frozen=True)
class Family:
    """What the stages need to know of a family; every `Params` is the section `model`."""

    denoiser: type[Denoiser]
    folder: str  # of the denoiser in a diffusers folder, and its section of the parameters
    network_config: Callable[[Params], Any]
    autoencoder_config: Callable[[Params], dict[str, Any]]  # vae/config.json
    scheduler_config: Callable[[Params], dict[str, Any]]  # scheduler/scheduler_config.json
    model_index: Callable[[Params], dict[str, Any]]  # model_index.json
    pipelines: frozenset[str]  # classes that the model_index.json of such a model names


FAMILIES = {
    "sdxl": Family(
        denoiser=SDXL,
        folder="unet",
        network_config=sdxl.unet_config,
        autoencoder_config=sdxl.autoencoder_config,
        scheduler_config=sdxl.scheduler_config,
        model_index=sdxl.model_index,
        pipelines=frozenset({"StableDiffusionXLPipeline"}),
    ),
    "flux": Family(
        denoiser=Flux1,
        folder="transformer",
        network_config=flux1.transformer_config,
        autoencoder_config=flux1.autoencoder_config,
        scheduler_config=flux1.scheduler_config,
        model_index=flux1.model_index,
        pipelines=frozenset({"FluxPipeline", "FluxKontextPipeline", "FluxFillPipeline"}),
    ),
    "flux2": Family(
        denoiser=Flux2,
        folder="transformer",
        network_config=flux2.transformer_config,
        autoencoder_config=flux2.autoencoder_config,
        scheduler_config=flux2.scheduler_config,
        model_index=flux2.model_index,
        pipelines=frozenset({"Flux2Pipeline", "Flux2KleinPipeline"}),
    ),
    "sd3": Family(
        denoiser=SD3,
        folder="transformer",
        network_config=sd3.transformer_config,
        autoencoder_config=sd3.autoencoder_config,
        scheduler_config=sd3.scheduler_config,
        model_index=sd3.model_index,
        pipelines=frozenset({"StableDiffusion3Pipeline"}),
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
