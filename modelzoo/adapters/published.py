"""A denoiser's layers under the names of its publisher, which kohya's and ComfyUI's files use."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from modelzoo.adapters.adapter import PREFIXES
from modelzoo.checkpoints.layouts.flux1 import FLUX1
from modelzoo.checkpoints.layouts.flux2 import FLUX2
from modelzoo.checkpoints.layouts.sd3 import SD3
from modelzoo.checkpoints.layouts.sdxl import SDXL
from modelzoo.checkpoints.layouts.table import to_published
from modelzoo.checkpoints.stream import MemorySource

LAYOUTS = {"sdxl": SDXL, "flux": FLUX1, "flux2": FLUX2, "sd3": SD3}  # by model.type


class Part(NamedTuple):
    """Rows of a published layer that are rows of one of ours."""

    name: str  # of our layer
    rows: Tensor  # (R,) of the published layer's output
    ours: Tensor  # (R,) of our layer's output


class Layer(NamedTuple):
    """A published layer: one of ours, or several that are fused in it."""

    num_rows: int
    parts: tuple[Part, ...]


def published_layers(network: nn.Module, family: str) -> dict[str, Layer]:
    """Say of which rows of our layers each published layer is made, by its name.

    The tables of the layouts move whole rows, so that numbered rows show where each goes.
    """
    own = {
        name.removesuffix(".weight").removesuffix(".base_layer"): len(tensor)
        for name, tensor in network.state_dict().items()
        if name.endswith(".weight") and not any(f".{prefix}" in name for prefix in PREFIXES)
    }
    marks = {
        f"{name}.weight": torch.stack([torch.full((rows,), place), torch.arange(rows)], dim=1)
        for place, (name, rows) in enumerate(own.items())
    }
    converted = to_published(MemorySource(marks, family, "diffusers"), LAYOUTS[family])
    names = list(own)
    return {
        name.removesuffix(".weight"): _layer(converted[name], names)
        for name in converted
        if name.endswith(".weight")
    }


def _layer(marks: Tensor, names: list[str]) -> Layer:
    places = dict.fromkeys(marks[:, 0].tolist())
    parts = []
    for place in places:
        rows = (marks[:, 0] == place).nonzero().flatten()
        parts.append(Part(names[place], rows, marks[rows, 1]))
    return Layer(len(marks), tuple(parts))
