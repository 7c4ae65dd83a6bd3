"""Components as folders in diffusers' layout: a `config.json` and safetensors, whole or sharded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modelzoo.checkpoints.stream import (
    PICKLES,
    Joined,
    MemorySource,
    SafetensorsFile,
    Selection,
    TensorInfo,
    TensorSource,
    refuse_pickle,
)
from modelzoo.checkpoints.write import write_safetensors

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"
LAYOUT = "diffusers"
MAX_SHARD_BYTES = 10_000_000_000  # what diffusers writes

M = TypeVar("M", bound=nn.Module)


def save_component(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    folder: Path,
    stem: str = DIFFUSERS_STEM,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write weights and configuration, a tensor at a time; the same values give the same bytes.

    Raises:
        FileExistsError: The folder holds weights under other names, which might be read instead.
    """
    source = _source(state, str(folder))
    shards = _shards(source.infos, stem, max_shard_bytes)
    index = f"{stem}.safetensors.index.json"
    written = {*shards, index} if len(shards) > 1 else set(shards)
    if stale := sorted({path.name for path in folder.glob(f"{stem}*.safetensors*")} - written):
        raise FileExistsError(
            f"{folder} holds {stale[:10]!r}, which might be read instead of what is to be written: "
            "remove them or give an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(config, folder / "config.json")
    for name, keys in shards.items():
        shard = Selection(source, {key: key for key in keys})
        write_safetensors(shard, folder / name, {"format": "pt"})
    if index in written:
        homes = {key: name for name, keys in shards.items() for key in keys}
        total = sum(info.nbytes for info in source.infos.values())
        write_json({"metadata": {"total_size": total}, "weight_map": homes}, folder / index)


def load_component(folder: Path) -> tuple[dict[str, Any], TensorSource]:
    """Read a component's config.json and open its tensors, each read from disk when it is used.

    Raises:
        FileNotFoundError: The folder holds no configuration or no weights.
        ValueError: The weights are pickled, or cut short.
    """
    config = read_config(folder)
    parts = [SafetensorsFile(file, LAYOUT) for file in weight_files(folder)]
    return config, Joined(parts, str(folder), LAYOUT)


def read_config(folder: Path) -> dict[str, Any]:
    """Read a component's config.json."""
    refuse_pickle(folder)
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: there is no config.json; give the folder of one component, such as "
            "transformer or vae of a diffusers folder"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def weight_files(folder: Path) -> list[Path]:
    """List a component's safetensors files: the shards of its index, or the one file."""
    folder = Path(folder)
    for stem in (DIFFUSERS_STEM, TRANSFORMERS_STEM):
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
            if absent := [name for name in names if not (folder / name).is_file()]:
                raise FileNotFoundError(
                    f"{index} names {absent!r}, which are not there: complete the download"
                )
            return [folder / name for name in names]
        if (folder / f"{stem}.safetensors").is_file():
            return [folder / f"{stem}.safetensors"]
    for path in sorted(folder.glob("*")):
        if path.suffix in PICKLES:
            refuse_pickle(path)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = f"only {others!r}, and variants such as fp16 are not read" if others else "none"
    raise FileNotFoundError(
        f"{folder}: there are no weights, neither {DIFFUSERS_STEM}.safetensors nor "
        f"{TRANSFORMERS_STEM}.safetensors nor an index of shards ({found}): complete the folder"
    )


def load_strict(module: M, state: Mapping[str, Tensor], where: Path | str) -> M:
    """Copy `state` into `module`, every key exactly once; a module on meta becomes real first.

    Keys and shapes are compared before anything is read, and tensors are read one after another:
    no second copy of the model is ever in memory. Values are converted to the module's dtype and
    lie in memory of torch's own alignment, so that a computation has the same bits whether its
    weights come from a file or from elsewhere.

    Raises:
        ValueError: A key is missing, surplus, of another shape, or whole numbers for real ones.
    """
    source = _source(state, str(where))
    refuse_misfits(module, source)
    wanted = module.state_dict()
    if any(tensor.is_meta for tensor in wanted.values()):
        module.to_empty(device="cpu")
        wanted = module.state_dict()
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(source[name])
    return module


def refuse_misfits(module: nn.Module, source: TensorSource) -> None:
    """Compare names, shapes and dtypes with those of a module, before anything is read.

    Raises:
        ValueError: A key is missing, surplus, of another shape, or whole numbers for real ones.
    """
    found = _misfits(source, module.state_dict())
    if problems := {kind: keys for kind, keys in found.items() if keys}:
        told = "; ".join(f"{len(keys)} {kind}: {keys[:10]!r}" for kind, keys in problems.items())
        raise ValueError(
            f"{source.where} does not fit {type(module).__name__}, its names being taken for those "
            f"of the {source.layout} layout: {told}; check that config.json and weights belong "
            "together"
        )


def _misfits(source: TensorSource, wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """List what does not agree, by kind, from names, shapes and dtypes alone."""
    both = [(name, source.infos[name], wanted[name]) for name in wanted if name in source.infos]
    return {
        "missing": [name for name in wanted if name not in source.infos],
        "surplus": [name for name in source.infos if name not in wanted],
        "misshapen": [
            f"{name} is {list(info.shape)}, needs {list(tensor.shape)}"
            for name, info, tensor in both
            if info.shape != tuple(tensor.shape)
        ],
        "of another kind": [
            f"{name} is {info.dtype}, needs {tensor.dtype}"
            for name, info, tensor in both
            if info.dtype.is_floating_point != tensor.is_floating_point()
        ],
    }


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write JSON as diffusers does: sorted keys, indented by two, a newline at the end."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _source(state: Mapping[str, Tensor], where: str) -> TensorSource:
    return state if isinstance(state, TensorSource) else MemorySource(state, where, LAYOUT)


def _shards(infos: Mapping[str, TensorInfo], stem: str, max_bytes: int) -> dict[str, list[str]]:
    """Part tensors in their order into files as full as they may be: file names to tensors'."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in infos.items():
        if shards[-1] and size + info.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.nbytes
    count = len(shards)
    if count == 1:
        return {f"{stem}.safetensors": shards[0]}
    names = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    return dict(zip(names, shards, strict=True))
