"""Where in a file which network lies, by the prefix of its tensors, and whose model it is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from modelzoo.checkpoints.layouts.clip import CLIP, OPEN_CLIP
from modelzoo.checkpoints.layouts.flux1 import FLUX1
from modelzoo.checkpoints.layouts.flux2 import FLUX2
from modelzoo.checkpoints.layouts.sd3 import SD3
from modelzoo.checkpoints.layouts.sdxl import SDXL
from modelzoo.checkpoints.layouts.table import Layout
from modelzoo.checkpoints.layouts.text import MISTRAL3, QWEN3, T5
from modelzoo.checkpoints.layouts.vae import VAE

DENOISERS = {"sdxl": SDXL, "flux": FLUX1, "flux2": FLUX2, "sd3": SD3}  # by model.type
QWEN3_8B_WIDTH = 4096
CLASSES = {
    "UNet2DConditionModel": "sdxl",
    "FluxTransformer2DModel": "flux",
    "Flux2Transformer2DModel": "flux2",
    "SD3Transformer2DModel": "sd3",
}


class Place(NamedTuple):
    """A component, how it is named and what its names begin with."""

    component: str  # a key of the section `model`: transformer, unet, vae, clip_l and so on
    layout: Layout
    prefix: str


def denoiser(family: str) -> str:
    """Name the component that is the denoiser of a family."""
    return "unet" if family == "sdxl" else "transformer"


_NETWORK = "model.diffusion_model."
_CLIP_L = Place("clip_l", CLIP, "text_encoders.clip_l.transformer.")
_CLIP_G = Place("clip_g", CLIP, "text_encoders.clip_g.transformer.")
_T5 = Place("t5", T5, "text_encoders.t5xxl.transformer.")
_QWEN3_4B = Place("qwen3", QWEN3, "text_encoders.qwen3_4b.transformer.")
_QWEN3_8B = Place("qwen3", QWEN3, "text_encoders.qwen3_8b.transformer.")
_MISTRAL3 = Place("mistral3", MISTRAL3, "text_encoders.mistral3_24b.transformer.")
_SDXL = (
    Place("unet", SDXL, _NETWORK),
    Place("vae", VAE, "first_stage_model."),
    Place("clip_l", CLIP, "conditioner.embedders.0.transformer."),
    Place("clip_g", OPEN_CLIP, "conditioner.embedders.1.model."),
)
_SD3 = (
    Place("transformer", SD3, _NETWORK),
    Place("vae", VAE, "first_stage_model."),
    _CLIP_L,
    _CLIP_G,
    _T5,
)

WRITTEN: dict[str, dict[str, tuple[Place, ...]]] = {  # by layout and family
    "bfl": {
        "flux": (Place("transformer", FLUX1, ""), Place("vae", VAE, "")),
        "flux2": (Place("transformer", FLUX2, ""), Place("vae", VAE, "")),
    },
    "stability": {"sdxl": _SDXL, "sd3": _SD3},
    "comfy": {
        "sdxl": _SDXL,
        "sd3": _SD3,
        "flux": (
            Place("transformer", FLUX1, _NETWORK),
            Place("vae", VAE, "vae."),
            _CLIP_L,
            _T5,
        ),
        "flux2": (
            Place("transformer", FLUX2, _NETWORK),
            Place("vae", VAE, "vae."),
            _QWEN3_4B,
            _QWEN3_8B,
            _MISTRAL3,
        ),
    },
}

ALSO_READ = (
    *(Place(denoiser(f), layout, "diffusion_model.") for f, layout in DENOISERS.items()),
    *(Place(denoiser(f), layout, "") for f, layout in DENOISERS.items()),
    Place("vae", VAE, ""),
    Place("clip_l", CLIP, ""),
    Place("t5", T5, ""),
    Place("qwen3", QWEN3, ""),
    Place("mistral3", MISTRAL3, ""),
)


def readable() -> list[Place]:
    """List all places, bare ones last, because every name begins with nothing."""
    families = [places for layout in WRITTEN.values() for places in layout.values()]
    places = dict.fromkeys((*(place for each in families for place in each), *ALSO_READ))
    return sorted(places, key=lambda place: len(place.prefix), reverse=True)


def writable(layout: str, family: str, configs: Mapping[str, Mapping[str, Any]]) -> list[Place]:
    """Give the places of components, whose config.json are given, in a file of a layout.

    Raises:
        ValueError: The layout does not exist for the family, or has no place for a component.
    """
    families = WRITTEN.get(layout, {})
    if family not in families:
        known = [name for name in WRITTEN if family in WRITTEN[name]]
        raise ValueError(
            f"layout {layout!r} does not exist for model.type {family!r}; use one of "
            f"{[*known, 'diffusers']!r}"
        )
    places = {place.component: place for place in reversed(families[family])}
    if homeless := sorted(configs.keys() - places.keys()):
        raise ValueError(
            f"layout {layout!r} of model.type {family!r} has no place for {homeless!r}, only for "
            f"{sorted(places)!r}: leave them out, or use another layout"
        )
    if configs.get("qwen3", {}).get("hidden_size") == QWEN3_8B_WIDTH:
        places["qwen3"] = _QWEN3_8B
    if list(configs) == ["vae"]:  # an autoencoder alone in its file has no prefix anywhere
        return [Place("vae", VAE, "")]
    return [places[component] for component in configs]
