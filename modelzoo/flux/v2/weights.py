"""FLUX.2's transformer from a seed, from a folder and to a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2
from modelzoo.flux.v2.modulation import SharedModulation
from modelzoo.flux.v2.transformer import Flux2Transformer2DModel

MODULATION_GAIN = 0.5  # of the first modulations' deviation, relative to the other layers'


def init_denoiser(config: Flux2Config, seed: int) -> Flux2:
    """Make an untrained FLUX.2 in float32.

    The last norm's modulation and the last projection are zero, so that the first prediction is
    zero. Every other linear layer is normal with deviation 1 / sqrt(fan in): without biases and
    behind norms this keeps the variance, also where several layers are fused into one matrix. The
    shared modulations are drawn with half of that, not zero as in adaLN-zero (Peebles and Xie
    2022, section 3.2): docs/digits.md has the measurement. Norms start at one.
    """
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(config)
    transformer.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    gains = {transformer.proj_out.weight: 0.0, transformer.norm_out.linear.weight: 0.0}
    for module in transformer.modules():
        if isinstance(module, SharedModulation):
            gains[module.linear.weight] = MODULATION_GAIN
    with torch.no_grad():
        for module in transformer.modules():
            if isinstance(module, nn.RMSNorm):
                module.weight.fill_(1)
            elif isinstance(module, nn.Linear):
                std = gains.get(module.weight, 1.0) * module.in_features**-0.5
                module.weight.normal_(0, std, generator=generator)
    return Flux2(transformer)


def load_denoiser(folder: Path, dtype: torch.dtype = torch.float32) -> Flux2:
    """Load FLUX.2 from the transformer folder of a diffusers model, every key used."""
    config, state = load_component(folder)
    if (name := config.get("_class_name")) != "Flux2Transformer2DModel":
        raise ValueError(
            f"{folder}: config.json names class {name!r}, but FLUX.2 needs "
            "'Flux2Transformer2DModel': give the transformer folder of a FLUX.2 model"
        )
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(Flux2Config.from_dict(config)).to(dtype)
    return Flux2(load_strict(transformer, state, folder))


def save_denoiser(denoiser: Flux2, folder: Path) -> None:
    """Write the transformer as a diffusers folder."""
    transformer = denoiser.transformer
    save_component(transformer.state_dict(), transformer.config.to_dict(), folder)
