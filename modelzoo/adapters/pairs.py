"""LoRA as pairs of matrices by layer, whatever wrote them: the form between two files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from modelzoo.adapters.adapter import NAME, adapted
from modelzoo.adapters.found import CONFIG, WEIGHTS, text_folders, weights_file
from modelzoo.adapters.published import Layer, Part, published_layers
from modelzoo.adapters.targets import layers
from modelzoo.checkpoints.stream import SafetensorsFile

HEADER = "lora_adapter_metadata"  # where diffusers keeps peft's configuration
DOWN = re.compile(r"(.+)\.(lora_A|lora_down|lora\.down)(\.default)?\.weight")
UP = re.compile(r"(.+)\.(lora_B|lora_up|lora\.up)(\.default)?\.weight")
LENGTH = re.compile(r"(.+)\.(lora_magnitude_vector|dora_scale)(\.default)?(\.weight)?")
ALPHA = re.compile(r"(.+)\.alpha")
KINDS = {"down": DOWN, "up": UP, "length": LENGTH, "alpha": ALPHA}
PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "unet.")
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_")  # of names with _ for every dot
NUMBERS = {"text_encoder": 1, "text_encoder_2": 2, "text_encoder_3": 3}  # in kohya's names
TEXT = re.compile(r"(text_encoder(?:_[23])?)\.(.+)|lora_te([123]?)_(.+)")
FLAT_CLIP = re.compile(r"text_model_encoder_layers_(\d+)_(self_attn|mlp)_(\w+)")
NO_TEXT: Mapping[str, Mapping[str, Pair]] = MappingProxyType({})


class Pair(NamedTuple):
    """What a LoRA adds to the weight of a layer: up @ down, the scale in it."""

    down: Tensor  # (R, D) or, of a convolution, (R, C, H, W)
    up: Tensor  # (D', R) or (C', R, 1, 1)
    length: Tensor | None = None  # (D',) of each row of weight + up @ down, with DoRA


def pairs_of(network: nn.Module) -> dict[str, Pair]:
    """Give the LoRA that a network has inside."""
    found = {}
    for name, layer in adapted(network).items():
        length = None
        if NAME in layer.lora_magnitude_vector:
            length = layer.lora_magnitude_vector[NAME].weight.detach().flatten()
        down, up = (each[NAME].weight.detach() for each in (layer.lora_A, layer.lora_B))
        found[name] = Pair(down, up * layer.scaling[NAME], length)
    return found


def to_diffusers(pairs: Mapping[str, Pair], component: str) -> dict[str, Tensor]:
    """Name pairs as diffusers' `load_lora_weights` takes them.

    Args:
        pairs: By layer.
        component: transformer, unet or the folder of a text encoder, into which transformers (5.23)
            loads them: it passes over DoRA's lengths unless they end in `.weight`.
    """
    tensors, ending = {}, ".weight" if component in NUMBERS else ""
    for name, pair in pairs.items():
        tensors[f"{component}.{name}.lora_A.weight"] = pair.down
        tensors[f"{component}.{name}.lora_B.weight"] = pair.up
        if pair.length is not None:
            tensors[f"{component}.{name}.lora_magnitude_vector{ending}"] = pair.length
    return tensors


def to_kohya(
    pairs: Mapping[str, Pair],
    network: nn.Module,
    family: str,
    text: Mapping[str, Mapping[str, Pair]] = NO_TEXT,
) -> dict[str, Tensor]:
    """Name pairs as kohya's scripts do and ComfyUI reads, in the layers of the publisher.

    `text` has those of text encoders, by folder.

    All alphas are one number: diffusers (0.42.1) reads those of SDXL that differ from the first
    under names that fit nothing, and passes them over.

    Raises:
        ValueError: The pairs are of DoRA, whose lengths other programs read in other ways.
    """
    every = [pairs, *text.values()]
    if any(pair.length is not None for each in every for pair in each.values()):
        raise ValueError(
            "export.lora_formats: 'comfyui' cannot hold DoRA, whose lengths programs read in "
            "different ways: give [diffusers], or export.merge true"
        )
    joined = {
        f"{FLAT_PREFIXES[0]}{name.replace('.', '_')}": _join(layer, pairs)
        for name, layer in published_layers(network, family).items()
        if any(part.name in pairs for part in layer.parts)
    }
    joined |= {
        f"lora_te{NUMBERS[folder]}_{name.replace('.', '_')}": pair
        for folder, own in text.items()
        for name, pair in own.items()
    }
    alpha = float(max(len(pair.down) for pair in joined.values()))
    tensors = {}
    for name, pair in joined.items():
        tensors[f"{name}.lora_down.weight"] = pair.down
        tensors[f"{name}.lora_up.weight"] = pair.up * (len(pair.down) / alpha)
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def _join(layer: Layer, pairs: Mapping[str, Pair]) -> Pair:
    """Set the pairs of a fused layer's parts beside each other: `up` is block-diagonal."""
    given = [(part, pairs[part.name]) for part in layer.parts if part.name in pairs]
    down = torch.cat([pair.down for _, pair in given])
    up = given[0][1].up.new_zeros(layer.num_rows, len(down), *given[0][1].up.shape[2:])
    first = 0
    for part, pair in given:
        last = first + len(pair.down)
        up[part.rows, first:last] = pair.up[part.ours]
        first = last
    return Pair(down, up)


def halves_of(
    file: Path, family: str, beside: Collection[str] = ()
) -> dict[str, dict[str, Tensor]]:
    """Read what a file holds of each of its layers: down, up and, if any, length and alpha.

    Raises:
        ValueError: A key, if it is not one of `beside`, belongs to no LoRA.
    """
    source = SafetensorsFile(file, "LoRA")
    found: dict[str, dict[str, Tensor]] = {}
    for name in (one for one in source if one not in beside):
        matches = ((kind, pattern.fullmatch(name)) for kind, pattern in KINDS.items())
        kind, match = next(((kind, match) for kind, match in matches if match), (None, None))
        if kind is None or match is None:
            raise ValueError(f"{file}: {name!r} belongs to no LoRA: give a LoRA of {family!r}")
        found.setdefault(match[1], {})[kind] = source[name]
    return found


def read_pairs(
    place: Path,
    network: nn.Module,
    family: str,
    has_text: bool = False,
    beside: Collection[str] = (),
) -> dict[str, Pair]:
    """Read a LoRA in any of the usual layouts as pairs of our layers, every key used.

    Args:
        place: A safetensors file or the folder of one.
        network: The denoiser's.
        family: `model.type`.
        has_text: Whether adapters of text encoders are passed over, which `text_pairs` reads;
            otherwise they are refused.
        beside: Names of tensors in the file that are of no LoRA, and which the caller reads.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A key is of no layer of this network, or a half of a pair is missing.
    """
    file = weights_file(place)
    found, config = halves_of(file, family, beside), config_of_file(file)
    of_text = {name for name in found if text_place(name)}
    if (of_text or text_folders(place)) and not has_text:
        raise ValueError(
            f"{place} has adapters of text encoders too: set training.lora.train_text_encoder to "
            "true, or give a LoRA without them"
        )
    homes = _homes(network, family)
    pairs: dict[str, Pair] = {}
    for name in (name for name in found if name not in of_text):
        layer = homes(name)
        if layer is None:
            raise ValueError(
                f"{file} has {len(found)} adapters, but {name!r} is no layer of model.type "
                f"{family!r}: give a LoRA of that family"
            )
        pairs.update(split(layer, found[name], config, f"{file}: {name!r}"))
    return pairs


def text_place(name: str) -> tuple[str, str] | None:
    """Give folder and layer of a text encoder of which a name in a file speaks, if it does."""
    match = TEXT.fullmatch(name)
    if match is None:
        return None
    if match[1]:
        return match[1], match[2]
    folder = next(folder for folder, number in NUMBERS.items() if number == int(match[3] or 1))
    return folder, FLAT_CLIP.sub(r"text_model.encoder.layers.\1.\2.\3", match[4])


def shrunk(pair: Pair) -> Pair:
    """Leave out inner channels that reach no output, which a fused layer gives its parts."""
    used = pair.up.flatten(2).abs().sum(-1).any(0) if pair.up.ndim > 2 else pair.up.any(0)
    return pair._replace(down=pair.down[used], up=pair.up[:, used])


def own_layers(network: nn.Module) -> dict[str, Layer]:
    """Give the layers of a network that can have an adapter, each as one layer of a file."""
    found = {}
    for name, module in layers(network).items():
        if ".lora_" not in name:
            own, every = name.removesuffix(".base_layer"), torch.arange(len(module.weight))  # type: ignore[arg-type]
            found[own] = Layer(len(every), (Part(own, every, every),))
    return found


def _homes(network: nn.Module, family: str) -> Any:
    """Give a function from a name in a file to the layer of which it speaks."""
    dotted: dict[str, Layer] = {**published_layers(network, family), **own_layers(network)}
    flat = {name.replace(".", "_"): layer for name, layer in dotted.items()}

    def home(name: str) -> Layer | None:
        for prefix in PREFIXES:
            if name.startswith(prefix) and name.removeprefix(prefix) in dotted:
                return dotted[name.removeprefix(prefix)]
        for prefix in FLAT_PREFIXES:
            if name.startswith(prefix):
                return flat.get(name.removeprefix(prefix))
        return dotted.get(name)

    return home


def split(
    layer: Layer, halves: Mapping[str, Tensor], config: Mapping[str, Any], where: str
) -> Iterable[tuple[str, Pair]]:
    """Give each of our layers its rows of a pair, with the scale that the configuration says.

    Raises:
        ValueError: A half is missing, or the pair has another number of outputs than the layer.
    """
    if not halves.keys() >= {"down", "up"}:
        raise ValueError(f"{where} has only {sorted(halves)!r}: download it again")
    up = halves["up"].float() * _scale(config, layer, halves)
    if len(up) != layer.num_rows:
        raise ValueError(
            f"a LoRA has {len(up)} outputs in {layer.parts[0].name!r}, but this model "
            f"{layer.num_rows}: give a LoRA of this very model"
        )
    length = halves.get("length")
    for part in layer.parts:
        own = torch.empty_like(up[: len(part.rows)])
        own[part.ours] = up[part.rows]
        if not own.any() and len(layer.parts) > 1:
            continue
        lengths = None
        if length is not None:
            lengths = torch.empty(len(part.rows))
            lengths[part.ours] = length.float().flatten()[part.rows]
        yield part.name, Pair(halves["down"].float(), own, lengths)


def config_of_file(file: Path, folder: str = "") -> dict[str, Any]:
    """Read peft's configuration beside a file, or from its header (of a text encoder: `folder`)."""
    if file.name == WEIGHTS and (file.parent / CONFIG).is_file():
        return json.loads((file.parent / CONFIG).read_text(encoding="utf-8"))
    with safe_open(file, framework="pt") as opened:
        values = json.loads((opened.metadata() or {}).get(HEADER, "{}"))
    parted = [(*name.partition(".")[::2], value) for name, value in values.items()]
    return {
        own: value
        for part, own, value in parted
        if (part == folder if folder else not part.startswith("text_"))
    }


def _scale(config: Mapping[str, Any], layer: Layer, halves: Mapping[str, Tensor]) -> float:
    """Give alpha / rank: of the file's tensor, else of its configuration, else 1."""
    rank = len(halves["down"])
    if "alpha" in halves:
        return float(halves["alpha"]) / rank
    if config.get("lora_alpha") is None:
        return 1.0
    alpha = config["lora_alpha"]
    for pattern, other in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer.parts[0].name):
            alpha = other
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
