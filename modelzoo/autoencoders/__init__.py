"""Autoencoders by the class name that their config.json bears."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelzoo.autoencoders.autoencoder import Autoencoder
from modelzoo.autoencoders.autoencoder_kl import AutoencoderKL
from modelzoo.autoencoders.config import (
    AutoencoderConfig,
    AutoencoderKLConfig,
    AutoencoderKLFlux2Config,
)
from modelzoo.autoencoders.flux2 import AutoencoderKLFlux2
from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.checkpoints.stream import Joined, MemorySource, TensorSource

AUTOENCODERS: dict[str, tuple[type[Autoencoder], type[AutoencoderConfig]]] = {
    "AutoencoderKL": (AutoencoderKL, AutoencoderKLConfig),
    "AutoencoderKLFlux2": (AutoencoderKLFlux2, AutoencoderKLFlux2Config),
}
COUNTER = "bn.num_batches_tracked"

__all__ = [
    "AUTOENCODERS",
    "Autoencoder",
    "AutoencoderKL",
    "AutoencoderKLConfig",
    "AutoencoderKLFlux2",
    "AutoencoderKLFlux2Config",
    "autoencoder_from",
    "init_autoencoder",
    "load_autoencoder",
    "save_autoencoder",
]


def load_autoencoder(folder: Path, dtype: torch.dtype = torch.float32) -> Autoencoder:
    """Load a frozen autoencoder from its diffusers folder, every key used.

    Raises:
        ValueError: The class is unknown or the weights do not fit.
    """
    return autoencoder_from(*load_component(folder), dtype)


def autoencoder_from(
    config: Mapping[str, Any], source: TensorSource, dtype: torch.dtype = torch.float32
) -> Autoencoder:
    """Load a frozen autoencoder from a config.json's content and tensors of diffusers' names.

    Raises:
        ValueError: The class is unknown or the weights do not fit.
    """
    with torch.device("meta"):
        autoencoder = _build(config, source.where).to(dtype)
    if COUNTER in autoencoder.state_dict() and COUNTER not in source:
        # converters drop the counter, which nothing reads
        counter = MemorySource({COUNTER: torch.tensor(0)}, source.where, source.layout)
        source = Joined([source, counter], source.where, source.layout)
    return load_strict(autoencoder, source, source.where).eval().requires_grad_(False)


def init_autoencoder(config: Mapping[str, Any], seed: int) -> Autoencoder:
    """Make an untrained autoencoder, by torch's default initialisation, from a config.json."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(config, "the given configuration")


def save_autoencoder(autoencoder: Autoencoder, folder: Path) -> None:
    """Write a diffusers folder."""
    save_component(autoencoder.state_dict(), autoencoder.config.to_dict(), folder)


def _build(config: Mapping[str, Any], where: str) -> Autoencoder:
    name = config.get("_class_name")
    if name not in AUTOENCODERS:
        raise ValueError(
            f"{where}: config.json names class {name!r}; known autoencoders are "
            f"{sorted(AUTOENCODERS)!r}: give the vae folder of a model of a known family"
        )
    autoencoder_class, config_class = AUTOENCODERS[name]
    return autoencoder_class(config_class.from_dict(config))
