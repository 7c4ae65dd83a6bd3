"""Write safetensors a tensor at a time, so that a model needs memory for its largest one only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo.checkpoints.stream import DTYPES, TensorSource

# the order in which the safetensors library lays dtypes out: its own, from the last to the first
ORDER = (
    *("I64", "F64", "F32", "I32", "BF16", "F16", "I16"),
    *("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8  # of the first tensor, in bytes


def write_safetensors(source: TensorSource, path: Path, metadata: Mapping[str, str]) -> None:
    """Write what a source holds, in the bytes that the safetensors library would write.

    The file appears under its name when it is complete.
    """
    names = sorted(source, key=lambda name: (ORDER.index(NAMES[source.infos[name].dtype]), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        shape, dtype = source.infos[name]
        begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            stream.write(_raw(source.load(name)))
    os.replace(partial, path)


def _raw(tensor: Tensor) -> memoryview:
    """Give a tensor's bytes without a copy, unless it lies scattered."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
