"""Adapters on disk: a folder as peft writes it, the same bytes for the same values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelzoo.adapters.adapter import adapter_parameters, config_of, inject
from modelzoo.adapters.found import CONFIG, WEIGHTS
from modelzoo.adapters.library import kinds
from modelzoo.checkpoints.folder import write_json
from modelzoo.checkpoints.stream import MemorySource, SafetensorsFile
from modelzoo.checkpoints.write import write_safetensors

PEFT_PREFIX = "base_model.model."  # of every tensor in a file of peft


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds adapters."""
    return (folder / CONFIG).is_file()


def save_adapters(network: nn.Module, folder: Path) -> None:
    """Write the adapters of a network and peft's configuration of them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(plain(config_of(network)), folder / CONFIG)
    tensors = {f"{PEFT_PREFIX}{name}": p for name, p in adapter_parameters(network).items()}
    write_safetensors(
        MemorySource(tensors, str(folder), "peft"), folder / WEIGHTS, {"format": "pt"}
    )


def load_adapters(network: nn.Module, folder: Path) -> None:
    """Add the adapters of a folder to their base, every key used.

    Raises:
        FileNotFoundError: The folder is not complete.
        ValueError: The adapters are of another network.
    """
    try:
        inject(network, read_config(folder))
    except ValueError as error:
        raise ValueError(f"{folder} holds adapters of another network: {error}") from None
    source = SafetensorsFile(folder / WEIGHTS, "peft")
    fill(network, {name.removeprefix(PEFT_PREFIX): source[name] for name in source}, str(folder))


def fill(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a network's adapters, every name on both sides exactly once.

    Raises:
        ValueError: A name is missing or surplus, or a shape is another.
    """
    wanted = adapter_parameters(network)
    missing, surplus = (
        sorted(wanted.keys() - tensors.keys()),
        sorted(tensors.keys() - wanted.keys()),
    )
    misshapen = [
        f"{name} is {list(tensors[name].shape)}, needs {list(wanted[name].shape)}"
        for name in wanted.keys() & tensors.keys()
        if tensors[name].shape != wanted[name].shape
    ]
    found = {"missing": missing, "surplus": surplus, "misshapen": sorted(misshapen)}
    if problems := {kind: names for kind, names in found.items() if names}:
        told = "; ".join(f"{len(names)} {kind}: {names[:5]!r}" for kind, names in problems.items())
        raise ValueError(
            f"{where} does not fit the adapters of this model ({told}): give adapters of the same "
            "base, layers and rank"
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])


def read_config(folder: Path) -> Any:
    """Read peft's configuration of a folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of a kind that is not known.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}: give a folder that holds adapters")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if values.get("peft_type") not in kinds():
        raise ValueError(
            f"{path} is of the kind {values.get('peft_type')!r}; known are {sorted(kinds())!r}: "
            "give such adapters"
        )
    kind = kinds()[values["peft_type"]]
    known = {one.name for one in dataclasses.fields(kind) if one.init}
    return kind(**{name: value for name, value in values.items() if name in known})


def plain(config: Any) -> dict[str, Any]:
    """Give peft's configuration as JSON-able values, sets in order."""
    return {
        name: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for name, value in config.to_dict().items()
    }
