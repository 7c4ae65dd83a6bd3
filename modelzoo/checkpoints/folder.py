"""Components as folders in diffusers' layout: a `config.json` and safetensors, whole or sharded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
MAX_SHARD_BYTES = 10_000_000_000  # what diffusers writes

M = TypeVar("M", bound=nn.Module)


def save_component(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    folder: Path,
    stem: str = DIFFUSERS_STEM,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write weights and configuration; the same tensors and values always give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(config, folder / "config.json")
    shards = _shards(state, max_shard_bytes)
    if len(shards) == 1:
        return _save(shards[0], folder / f"{stem}.safetensors")
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(shard, folder / name)
        weight_map.update(dict.fromkeys(shard, name))
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in state.values())},
        "weight_map": dict(sorted(weight_map.items())),
    }
    write_json(index, folder / f"{stem}.safetensors.index.json")


def load_component(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a component's config.json and its tensors, which are mapped from disk until copied.

    Raises:
        FileNotFoundError: The folder holds no configuration or no weights.
        ValueError: The folder holds pickled weights only, or its index names a missing key.
    """
    config = read_config(folder)
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            state.update({name: tensors.get_tensor(name) for name in tensors.keys()})  # noqa: SIM118
    return config, state


def read_config(folder: Path) -> dict[str, Any]:
    """Read a component's config.json."""
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
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
    if pickled:
        raise ValueError(
            f"{folder}: {pickled!r} are pickles, and loading one runs whatever code it holds; "
            "only safetensors are read: convert the file or download the safetensors version"
        )
    raise FileNotFoundError(
        f"{folder}: there are no weights, neither {DIFFUSERS_STEM}.safetensors nor "
        f"{TRANSFORMERS_STEM}.safetensors nor an index of shards: complete the folder"
    )


def load_strict(module: M, state: Mapping[str, Tensor], where: Path | str) -> M:
    """Copy `state` into `module`, every key exactly once; a module on meta becomes real first.

    Values are converted to the module's dtype and lie in memory of torch's own alignment, so that
    a computation has the same bits whether its weights come from a file or from elsewhere.

    Raises:
        ValueError: A key is missing, surplus or of another shape.
    """
    wanted = module.state_dict()
    missing = [k for k in wanted if k not in state]
    surplus = [k for k in state if k not in wanted]
    misshapen = [
        f"{k} is {list(state[k].shape)}, needs {list(wanted[k].shape)}"
        for k in wanted
        if k in state and state[k].shape != wanted[k].shape
    ]
    problems = {"missing": missing, "surplus": surplus, "misshapen": misshapen}
    if any(problems.values()):
        found = "; ".join(f"{len(v)} {k}: {v[:10]!r}" for k, v in problems.items() if v)
        raise ValueError(
            f"{where} does not fit {type(module).__name__}: {found}; "
            "check that config.json and weights belong together"
        )
    if any(t.is_meta for t in wanted.values()):
        module.to_empty(device="cpu")
    with torch.no_grad():
        module.load_state_dict(state)
    return module


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """Write JSON as diffusers does: sorted keys, indented by two, a newline at the end."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    contiguous = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def _shards(state: Mapping[str, Tensor], max_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards
