"""The ControlNets of every family: how one is made of a base, and how it is loaded beside one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from modelzoo.controlnet import load_controlnet
from modelzoo.denoiser import Denoiser
from modelzoo.flux.v1 import controlnet as flux1
from modelzoo.flux.v1.model import Flux1
from modelzoo.flux.v2 import controlnet as flux2
from modelzoo.flux.v2.model import Flux2
from modelzoo.sd3 import controlnet as sd3
from modelzoo.sd3.model import SD3
from modelzoo.sdxl import controlnet as sdxl
from modelzoo.sdxl.model import SDXL


@dataclass(frozen=True)
class Sizes:
    """What a new ControlNet copies; None is the family's usual number.

    Attributes:
        num_layers: blocks of a transformer, of FLUX those with two streams.
        num_single_layers: blocks of FLUX with one stream.
        embedding_channels: of SDXL, widths of what embeds the picture.
    """

    num_layers: int | None = None
    num_single_layers: int | None = None
    embedding_channels: tuple[int, ...] = (16, 32, 96, 256)


@dataclass(frozen=True)
class Kind:
    """The ControlNet of a family.

    Attributes:
        network: its class.
        grow: makes one of a base that at first changes nothing, with a seed.
        sees_pixels: whether it follows pixels in [0, 1], and not latents.
        shared: sizes of its configuration that are those of the base.
    """

    network: type[nn.Module]
    grow: Callable[[Denoiser, Sizes, int], nn.Module]
    sees_pixels: bool
    shared: tuple[str, ...]


def _of_sdxl(denoiser: Denoiser, sizes: Sizes, seed: int) -> nn.Module:
    assert isinstance(denoiser, SDXL)
    return sdxl.controlnet_from(denoiser, seed, embedding_channels=sizes.embedding_channels)


def _of_sd3(denoiser: Denoiser, sizes: Sizes, seed: int) -> nn.Module:
    assert isinstance(denoiser, SD3)
    return sd3.controlnet_from(denoiser, sizes.num_layers)


def _of_flux1(denoiser: Denoiser, sizes: Sizes, seed: int) -> nn.Module:
    assert isinstance(denoiser, Flux1)
    return flux1.controlnet_from(denoiser, sizes.num_layers, sizes.num_single_layers)


def _of_flux2(denoiser: Denoiser, sizes: Sizes, seed: int) -> nn.Module:
    assert isinstance(denoiser, Flux2)
    return flux2.controlnet_from(denoiser, sizes.num_layers, sizes.num_single_layers)


TOKENS = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim")
KINDS: Mapping[type[Denoiser], Kind] = {
    SDXL: Kind(
        sdxl.ControlNetModel,
        _of_sdxl,
        sees_pixels=True,
        shared=("in_channels", "block_out_channels", "cross_attention_dim"),
    ),
    SD3: Kind(sd3.SD3ControlNetModel, _of_sd3, sees_pixels=False, shared=(*TOKENS, "patch_size")),
    Flux1: Kind(flux1.FluxControlNetModel, _of_flux1, sees_pixels=False, shared=TOKENS),
    Flux2: Kind(flux2.Flux2ControlNetModel, _of_flux2, sees_pixels=False, shared=TOKENS),
}


def kind_of(denoiser: Denoiser) -> Kind:
    """Return the kind of ControlNet that a base can have."""
    return KINDS[type(denoiser)]


def load_controlnet_of(
    denoiser: Denoiser, folder: Path, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Load a ControlNet that fits a base, every key used.

    Raises:
        FileNotFoundError: The folder is not there or not complete.
        ValueError: It holds a ControlNet of another family, or of a base of another size.
    """
    kind = kind_of(denoiser)
    network = load_controlnet(kind.network, folder, dtype)
    for name in kind.shared:
        found, wanted = getattr(network.config, name), getattr(denoiser.config, name)
        if found != wanted:
            raise ValueError(
                f"{folder}: the ControlNet has {name} {found!r}, but its base has {wanted!r}: give "
                "a ControlNet that was trained on this base"
            )
    return network
