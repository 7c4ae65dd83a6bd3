"""Control-LoRA of the FLUX families: a picture to follow as further channels of the noisy tokens.

The form is that of FLUX.1 Canny and Depth as LoRA (Black Forest Labs 2024): `x_embedder` is widened
by columns for the picture's latents, it and other layers have adapters, and the norms of queries
and keys are new.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from modelzoo.adapters.files import is_adapter, load_adapters, save_adapters
from modelzoo.checkpoints.stream import MemorySource, SafetensorsFile
from modelzoo.checkpoints.write import write_safetensors
from modelzoo.denoiser import Denoiser
from modelzoo.flux.components.editing import widened_for_control

D = TypeVar("D", bound=Denoiser)

SEEING = "x_embedder"  # the layer that is widened; it always has an adapter
NORMS = "control_norms.safetensors"  # beside the adapters' files
NORM_LAYERS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")  # what diffusers loads


def norms(network: nn.Module) -> dict[str, nn.Parameter]:
    """Give the scales of the norms of queries and keys, (E,) each, by their names."""
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if name.endswith(".weight") and name.split(".")[-2] in NORM_LAYERS
    }


def free_norms(network: nn.Module) -> None:
    """Let the norms learn, in float32 whatever the network is: their steps are small beside 1."""
    for parameter in norms(network).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def fill_norms(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Give the norms of a network other scales, in float32, every name on both sides exactly once.

    Raises:
        ValueError: A name is missing or surplus, or a shape is another.
    """
    wanted = norms(network)
    shapes, given = (
        {name: tuple(tensor.shape) for name, tensor in of.items()} for of in (wanted, tensors)
    )
    if shapes != given:
        first = sorted(shapes.items() ^ given.items())[0][0]
        raise ValueError(
            f"{where} has {len(given)} norms, but this model {len(shapes)}, and {first!r} is not "
            "the same in both: give a Control-LoRA of this very base"
        )
    for name, parameter in wanted.items():
        parameter.data = tensors[name].to(parameter.device, torch.float32, copy=True)


def is_control_lora(folder: Path) -> bool:
    """Tell whether a folder holds a Control-LoRA, and not adapters alone."""
    return is_adapter(folder) and (folder / NORMS).is_file()


def save_control_lora(network: nn.Module, folder: Path) -> None:
    """Write the adapters as peft does, and the norms beside them."""
    save_adapters(network, folder)
    tensors = {name: parameter.detach() for name, parameter in norms(network).items()}
    write_safetensors(MemorySource(tensors, str(folder), "norms"), folder / NORMS, {"format": "pt"})


def load_control_lora(base: D, folder: Path) -> D:
    """Make a base one that follows pictures, by a Control-LoRA that `save_control_lora` wrote.

    The base is not to be used any more: its layers are in the result.

    Raises:
        FileNotFoundError: The folder is not complete.
        ValueError: It is of another base, or the base takes further channels already.
    """
    denoiser = widened_for_control(base)
    load_adapters(denoiser.network, folder)
    source = SafetensorsFile(folder / NORMS, "norms")
    fill_norms(denoiser.network, {name: source[name] for name in source}, str(folder))
    return denoiser
