"""Load a denoiser with a packed base, a tensor at a time: its whole weights are never in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from modelzoo.checkpoints.folder import load_component, refuse_misfits
from modelzoo.checkpoints.stream import TensorSource
from modelzoo.denoiser import Denoiser, on_meta
from modelzoo.quantised.linear import QuantisedLinear

D = TypeVar("D", bound=Denoiser)


def load_quantised(kind: type[D], folder: Path, dtype: torch.dtype, quantisation: str) -> D:
    """Load a denoiser whose `quantisable` layers are packed, every key used.

    Its network keeps the opened file as `whole_weights`, for what is copied from the base.

    Args:
        kind: The family's class.
        folder: Its folder in a diffusers model.
        dtype: Of what is not packed, and of what the packed layers give.
        quantisation: A name of `modelzoo.quantised.kinds.KINDS`.

    Raises:
        FileNotFoundError: The folder is not there or not complete.
        ValueError: The folder holds another class, or the weights do not fit.
    """
    config, source = load_component(folder)
    denoiser = on_meta(kind, config, source, dtype)
    network = denoiser.network
    refuse_misfits(network, source)
    chosen = put_packed(denoiser, quantisation)
    _fill(network.to_empty(device="cpu"), chosen, source)
    network.whole_weights = source  # type: ignore[assignment]
    return denoiser


def put_packed(denoiser: Denoiser, quantisation: str) -> dict[str, QuantisedLinear]:
    """Put a packed layer, which has no weight yet, in place of each that is `quantisable`."""
    chosen = {
        name: QuantisedLinear(layer, quantisation) for name, layer in quantisable(denoiser).items()
    }
    for name, layer in chosen.items():
        denoiser.network.set_submodule(name, layer)
    return chosen


def quantisable(denoiser: Denoiser) -> dict[str, nn.Linear]:
    """Give the linear layers that are packed, by name: those inside the denoiser's blocks.

    Outside of them are what embeds pictures, text, time and guidance, and the last norm and
    projection: few weights, through which everything goes. An odd width is left as it is, since
    nf4 packs pairs.
    """
    names = {id(module): name for name, module in denoiser.network.named_modules()}
    return {
        f"{names[id(block)]}.{name}": layer
        for block in denoiser.blocks()
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and layer.in_features % 2 == 0
    }


@torch.no_grad()
def _fill(network: nn.Module, packed: dict[str, QuantisedLinear], source: TensorSource) -> None:
    """Read each tensor once; a packed layer's is gone before the next is read."""
    plain = network.state_dict()
    for name in source:
        layer, _, own = name.rpartition(".")
        if layer in packed and own == "weight":
            packed[layer].take(source[name])
        else:
            plain[name].copy_(source[name])
