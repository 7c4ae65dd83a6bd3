"""Go on from a LoRA that is there already, whoever trained it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelzoo.adapters.adapter import NAME, adapted, config_of
from modelzoo.adapters.files import PEFT_PREFIX, fill
from modelzoo.adapters.found import WEIGHTS, text_folders, weights_file
from modelzoo.adapters.pairs import Pair, read_pairs, shrunk
from modelzoo.adapters.text import Parts
from modelzoo.adapters.text_pairs import read_text_pairs
from modelzoo.checkpoints.stream import SafetensorsFile


def start_from(network: nn.Module, family: str, place: Path, has_text: bool = False) -> None:
    """Give the adapters of a network the values of a LoRA; layers that it leaves out stay new.

    With `has_text` the LoRA may have adapters of text encoders too, which are passed over.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another family, rank or kind, or of layers without an adapter.
    """
    if config_of(network).peft_type.value != "LORA":
        _copy(network, weights_file(place))
        return
    _take_all(network, read_pairs(place, network, family, has_text), place, "target_modules")


def start_text_from(parts: Parts, family: str, place: Path) -> None:
    """Do the same for the adapters of text encoders, from the same LoRA.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another family, rank or kind, or of layers without an adapter.
    """
    if config_of(next(iter(parts.values()))).peft_type.value != "LORA":
        for folder in text_folders(place):
            _copy(parts[folder.name], folder / WEIGHTS)
        return
    for name, pairs in read_text_pairs(place, parts, family).items():
        _take_all(parts[name], pairs, place, "text_target_modules")


def _copy(network: nn.Module, file: Path) -> None:
    source = SafetensorsFile(file, "peft")
    tensors = {name.removeprefix(PEFT_PREFIX): source[name] for name in source}
    fill(network, tensors, str(file.parent))


def _take_all(network: nn.Module, pairs: Mapping[str, Pair], place: Path, key: str) -> None:
    layers = adapted(network)
    if surplus := sorted(pairs.keys() - layers.keys()):
        raise ValueError(
            f"training.lora.init_from: {place} has {len(surplus)} adapters in layers that "
            f"training.lora.{key} leaves out, such as {surplus[0]!r}: add them"
        )
    with torch.no_grad():
        for name, pair in pairs.items():
            _take(layers[name], pair, f"training.lora.init_from: {place}: {name!r}")


def _take(layer: Any, pair: Pair, where: str) -> None:
    down, up, rank = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, layer.r[NAME]
    pair = shrunk(pair) if len(pair.down) > rank else pair
    if len(pair.down) != rank:
        raise ValueError(
            f"{where} has rank {len(pair.down)}, but training.lora.rank gives it {rank}: make them "
            "equal"
        )
    if (pair.length is not None) != (NAME in layer.lora_magnitude_vector):
        has = "has" if pair.length is not None else "lacks"
        raise ValueError(f"{where} {has} the lengths of DoRA: set training.lora.use_dora as it is")
    if pair.down.shape[1:] != down.shape[1:] or len(pair.up) != len(up):
        raise ValueError(f"{where} is of a layer of another size: give a LoRA of this base")
    down.copy_(pair.down)
    up.copy_(pair.up / layer.scaling[NAME])
    if pair.length is not None:
        length = layer.lora_magnitude_vector[NAME].weight
        length.copy_(pair.length.reshape(length.shape))
