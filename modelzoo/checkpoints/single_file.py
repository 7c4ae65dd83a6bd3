"""Whole models in one safetensors file, as BFL, Stability and ComfyUI publish them, both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from modelzoo.checkpoints.layouts.clip import CLIP, SIGN, WIDTHS, with_identity_projection
from modelzoo.checkpoints.layouts.places import DENOISERS, Place, readable, writable
from modelzoo.checkpoints.layouts.table import Layout, to_diffusers, to_published
from modelzoo.checkpoints.layouts.vae import NORMALISATION
from modelzoo.checkpoints.stream import Joined, SafetensorsFile, Selection, TensorSource
from modelzoo.checkpoints.write import write_safetensors

CONFIGS_KEY = "diffbase.configs"  # of the header: sizes that no shape shows, of files of ours
QUANTISED = "is quantised, and training starts from full weights: download the bf16 or fp16 version"
REFUSED = {  # by patterns of tensors' names
    r"lora_[AB]|lora_(up|down)|lora\.(up|down)|lora_linear_layer|hada_w\d|lokr_w\d|dora_scale": (
        "is a LoRA, which changes a model and is none: give the file of the model it was made for"
    ),
    r"scaled_fp8|(weight|input)_scale|scale_(weight|input)|comfy_quant|absmax|quant_(state|map)": (
        QUANTISED
    ),
}
DROPPED = re.compile(  # tables and constants that nothing reads
    r"denoiser\.sigmas|model_ema\.(decay|num_updates)"
    r"|(conditioner\.embedders|text_encoders)\.\w+\.(logit_scale|spiece_model|tekken_model)"
)


class Component(NamedTuple):
    """A network on disk: its config.json and its tensors under diffusers' names."""

    config: Mapping[str, Any]
    source: TensorSource


@dataclass(frozen=True)
class SingleFile:
    """What a file holds.

    Attributes:
        family: `model.type`; None for a text encoder alone, which several families use.
        layouts: Whose names the file has, by component.
        components: By their names in the section `model`: transformer, unet, vae, clip_l, clip_g,
            t5, qwen3, mistral3.
    """

    family: str | None
    layouts: dict[str, str]
    components: dict[str, Component]


def open_single_file(path: Path, family: str | None = None) -> SingleFile:
    """Recognise a safetensors file from its tensors' names, and open what it holds.

    Nothing but the header is read; tensors are converted when they are asked for.

    Args:
        path: The file.
        family: `model.type`, needed where the file does not show it: an AutoencoderKL alone has
            the same tensors in several families, but its latents are scaled differently.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is a pickle, a LoRA, quantised, unknown, incomplete, or of a family
            that is not known or not the given one.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        raise ValueError(f"{path} {QUANTISED}")
    file = SafetensorsFile(path)
    _refuse(path, file)
    found = _find(path, file)
    shown = next((f for f in DENOISERS for place, _ in found if place.layout is DENOISERS[f]), None)
    if family and shown and family != shown:
        raise ValueError(f"{path} is a model of type {shown!r}, not {family!r}: give that type")
    family = family or shown
    recorded = _recorded_configs(path)
    layouts, components = {}, {}
    for place, names in found:
        source = _converted(path, place, Selection(file, names))
        if place.layout is CLIP and family == "sd3":
            source = with_identity_projection(source)
        name = _component_name(path, place, source, recorded)
        config = recorded.get(name) or _config(path, place.layout, source, family)
        layouts[name], components[name] = source.layout, Component(config, source)
    return SingleFile(family, layouts, components)


def save_single_file(
    components: Mapping[str, Component], path: Path, layout: str, family: str
) -> None:
    """Write components into one file, a tensor at a time.

    What no shape shows (heads, group norms, latent scales) goes into the header, so that
    `open_single_file` finds it again; other programs ignore it.

    Args:
        components: By their names in the section `model`, as `SingleFile` has them.
        path: The file.
        layout: "bfl", "stability", "comfy" or "diffusers" (names as they are, one component).
        family: `model.type`.

    Raises:
        ValueError: The layout does not exist for the family, has no place for a component, or
            would mix the names of several.
    """
    configs = {name: component.config for name, component in components.items()}
    if layout == "diffusers":
        parts = {name: ("", component.source) for name, component in components.items()}
    else:
        places = writable(layout, family, configs)
        parts = {p.component: (p.prefix, _published(p, components[p.component])) for p in places}
    bare = [name for name, (prefix, _) in parts.items() if not prefix]
    if bare and len(parts) > 1:
        raise ValueError(
            f"{path}: layout {layout!r} keeps every network in a file of its own, but "
            f"{sorted(parts)!r} are given: write one file each, or use layout 'comfy'"
        )
    prefixed = [
        Selection(source, {f"{prefix}{name}": name for name in source})
        for prefix, source in parts.values()
    ]
    metadata = {"format": "pt", CONFIGS_KEY: json.dumps(configs, sort_keys=True)}
    write_safetensors(Joined(prefixed, str(path), layout), path, metadata)


def _refuse(path: Path, file: TensorSource) -> None:
    for pattern, reason in REFUSED.items():
        if name := next((name for name in file if re.search(pattern, name)), None):
            raise ValueError(f"{path} {reason} (it has a tensor {name!r})")


def _find(path: Path, file: TensorSource) -> list[tuple[Place, dict[str, str]]]:
    """Find the components: their places, and their tensors' names without and with the prefix."""
    rest = [name for name in file if not DROPPED.fullmatch(name)]
    found: dict[str, tuple[Place, dict[str, str]]] = {}
    for place in readable():
        names = {n.removeprefix(place.prefix): n for n in rest if n.startswith(place.prefix)}
        signs = (*place.layout.signs, place.layout.diffusers_sign)
        if place.component not in found and any(sign in names for sign in signs):
            found[place.component] = place, names
            rest = [name for name in rest if not name.startswith(place.prefix)]
    if rest:
        known = sorted({place.layout.name for place in readable()})
        besides = f" besides {sorted(found)!r}" if found else ""
        raise ValueError(
            f"{path} holds {len(rest)} tensors of no known network{besides}, such as "
            f"{rest[:10]!r}; known are {known!r}, with these names or with those of diffusers: "
            "give such a file, or a diffusers folder"
        )
    return list(found.values())


def _converted(path: Path, place: Place, source: TensorSource) -> TensorSource:
    if not any(sign in source for sign in place.layout.signs):
        return source  # named as in diffusers already
    try:
        return to_diffusers(source, place.layout)
    except KeyError as missing:
        raise ValueError(_incomplete(path, place.layout, missing)) from missing


def _component_name(
    path: Path, place: Place, source: TensorSource, recorded: Mapping[str, Any]
) -> str:
    """Tell CLIP-L from CLIP-G where no prefix does."""
    if place.layout is not CLIP or place.prefix:
        return place.component
    if len(recorded) == 1:
        return next(iter(recorded))
    width = source.infos[SIGN].shape[1]
    if width not in WIDTHS:
        raise ValueError(
            f"{path} is a CLIP text encoder of width {width!r}; known widths are {WIDTHS!r}: give "
            "a file of one of these, or a diffusers folder"
        )
    return WIDTHS[width]


def _config(path: Path, layout: Layout, source: TensorSource, family: str | None) -> dict[str, Any]:
    """Read config.json from the shapes of a network's tensors."""
    try:
        config = layout.config(source.infos)
    except KeyError as missing:
        raise ValueError(_incomplete(path, layout, missing)) from missing
    if config.get("_class_name") != "AutoencoderKL":
        return config
    if family is None or family not in NORMALISATION:
        raise ValueError(
            f"{path} holds an AutoencoderKL alone, and nothing in it says how latents are scaled: "
            f"say the family, one of {sorted(NORMALISATION)!r}"
        )
    return {**config, **NORMALISATION[family]}


def _incomplete(path: Path, layout: Layout, missing: KeyError) -> str:
    return (
        f"{path} was taken for a file of the {layout.name} layout, but it has no {missing}: "
        "complete the download"
    )


def _recorded_configs(path: Path) -> dict[str, dict[str, Any]]:
    with safe_open(path, framework="pt") as opened:
        return json.loads((opened.metadata() or {}).get(CONFIGS_KEY, "{}"))


def _published(place: Place, component: Component) -> TensorSource:
    source = component.source
    if place.component in ("clip_l", "clip_g"):  # transformers 5 leaves out `text_model.`
        source = to_diffusers(source, CLIP)
    return to_published(source, place.layout)
