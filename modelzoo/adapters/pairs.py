"""LoRA as pairs of matrices by layer, whatever wrote them: the form between two files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from modelzoo.adapters.adapter import NAME, adapted
from modelzoo.adapters.found import CONFIG, WEIGHTS, weights_file
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
    """Name pairs as diffusers' `load_lora_weights` takes them; component: transformer or unet."""
    tensors = {}
    for name, pair in pairs.items():
        tensors[f"{component}.{name}.lora_A.weight"] = pair.down
        tensors[f"{component}.{name}.lora_B.weight"] = pair.up
        if pair.length is not None:
            tensors[f"{component}.{name}.lora_magnitude_vector"] = pair.length
    return tensors


def to_kohya(pairs: Mapping[str, Pair], network: nn.Module, family: str) -> dict[str, Tensor]:
    """Name pairs as kohya's scripts do and ComfyUI reads, in the layers of the publisher.

    All alphas are one number: diffusers (0.42.1) reads those of SDXL that differ from the first
    under names that fit nothing, and passes them over.

    Raises:
        ValueError: The pairs are of DoRA, whose lengths other programs read in other ways.
    """
    if any(pair.length is not None for pair in pairs.values()):
        raise ValueError(
            "export.lora_formats: 'comfyui' cannot hold DoRA, whose lengths programs read in "
            "different ways: give [diffusers], or export.merge true"
        )
    joined = {
        f"{FLAT_PREFIXES[0]}{name.replace('.', '_')}": _join(layer, pairs)
        for name, layer in published_layers(network, family).items()
        if any(part.name in pairs for part in layer.parts)
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


def read_pairs(
    place: Path, network: nn.Module, family: str, beside: Collection[str] = ()
) -> dict[str, Pair]:
    """Read a LoRA in any of the usual layouts as pairs of our layers, every key used.

    Args:
        place: A file, or a folder.
        network: Whose layers are meant.
        family: `model.type`.
        beside: Names of tensors in the file that are of no LoRA, and which the caller reads.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A key is of no layer of this network, or a half of a pair is missing.
    """
    file = weights_file(place)
    source = SafetensorsFile(file, "LoRA")
    config = _config(file)
    found: dict[str, dict[str, Tensor]] = {}
    for name in (one for one in source if one not in beside):
        matches = ((kind, pattern.fullmatch(name)) for kind, pattern in KINDS.items())
        kind, match = next(((kind, match) for kind, match in matches if match), (None, None))
        if kind is None or match is None:
            raise ValueError(f"{file}: {name!r} belongs to no LoRA: give a LoRA of {family!r}")
        found.setdefault(match[1], {})[kind] = source[name]
    homes = _homes(network, family)
    pairs: dict[str, Pair] = {}
    for name, halves in found.items():
        layer = homes(name)
        if layer is None:
            raise ValueError(
                f"{file} has {len(found)} adapters, but {name!r} is no layer of model.type "
                f"{family!r}: give a LoRA of that family, without text encoders"
            )
        if not halves.keys() >= {"down", "up"}:
            raise ValueError(f"{file}: {name!r} has only {sorted(halves)!r}: download it again")
        pairs.update(_split(layer, halves, _scale(config, layer, halves)))
    return pairs


def shrunk(pair: Pair) -> Pair:
    """Leave out inner channels that reach no output, which a fused layer gives its parts."""
    used = pair.up.flatten(2).abs().sum(-1).any(0) if pair.up.ndim > 2 else pair.up.any(0)
    return pair._replace(down=pair.down[used], up=pair.up[:, used])


def _homes(network: nn.Module, family: str) -> Any:
    """Give a function from a name in a file to the layer of which it speaks."""
    own = {
        name.removesuffix(".base_layer"): len(module.weight)  # type: ignore[arg-type]
        for name, module in layers(network).items()
        if ".lora_" not in name
    }
    dotted: dict[str, Layer] = {**published_layers(network, family)}
    for name, rows in own.items():
        every = torch.arange(rows)
        dotted[name] = Layer(rows, (Part(name, every, every),))
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


def _split(layer: Layer, halves: Mapping[str, Tensor], scale: float) -> Iterable[tuple[str, Pair]]:
    """Give each of our layers its rows of a pair."""
    up = halves["up"].float() * scale
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


def _config(file: Path) -> dict[str, Any]:
    """Read peft's configuration of a file: beside it, or in its header."""
    if file.name == WEIGHTS and (file.parent / CONFIG).is_file():
        return json.loads((file.parent / CONFIG).read_text(encoding="utf-8"))
    with safe_open(file, framework="pt") as opened:
        values = json.loads((opened.metadata() or {}).get(HEADER, "{}"))
    return {name.partition(".")[2]: v for name, v in values.items() if not name.startswith("text_")}


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
