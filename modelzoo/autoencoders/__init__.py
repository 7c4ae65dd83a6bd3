"""Autoencoders by the class name that their config.json bears."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from modelzoo.autoencoders.autoencoder import Autoencoder
from modelzoo.autoencoders.flux2 import AutoencoderConfig, AutoencoderKLFlux2
from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.checkpoints.stream import Joined, MemorySource

COUNTER = "bn.num_batches_tracked"
AUTOENCODERS = {"AutoencoderKLFlux2": (AutoencoderKLFlux2, AutoencoderConfig)}

__all__ = [
    "AUTOENCODERS",
    "Autoencoder",
    "AutoencoderConfig",
    "AutoencoderKLFlux2",
    "init_autoencoder",
    "load_autoencoder",
    "save_autoencoder",
]


def load_autoencoder(folder: Path, dtype: torch.dtype = torch.float32) -> AutoencoderKLFlux2:
    """Load a frozen autoencoder from its diffusers folder, every key used.

    Raises:
        ValueError: The class is unknown or the weights do not fit.
    """
    config, state = load_component(folder)
    with torch.device("meta"):
        autoencoder = _build(config, str(folder)).to(dtype)
    if (
        "bn.running_var" in state and COUNTER not in state
    ):  # converters drop the counter, which nothing reads
        counter = {COUNTER: torch.zeros((), dtype=torch.long)}
        state = Joined(
            [state, MemorySource(counter, str(folder), state.layout)], str(folder), state.layout
        )
    return load_strict(autoencoder, state, folder).eval().requires_grad_(False)


def init_autoencoder(config: Mapping[str, Any], seed: int) -> AutoencoderKLFlux2:
    """Make an untrained autoencoder, by torch's default initialisation, from a config.json."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(config, "the given configuration")


def save_autoencoder(autoencoder: AutoencoderKLFlux2, folder: Path) -> None:
    """Write a diffusers folder."""
    save_component(autoencoder.state_dict(), autoencoder.config.to_dict(), folder)


def _build(config: Mapping[str, Any], where: str) -> AutoencoderKLFlux2:
    name = config.get("_class_name")
    if name not in AUTOENCODERS:
        raise ValueError(
            f"{where}: config.json names class {name!r}; known autoencoders are "
            f"{sorted(AUTOENCODERS)!r}: give the vae folder of a model of a known family"
        )
    autoencoder_class, config_class = AUTOENCODERS[name]
    return autoencoder_class(config_class.from_dict(config))
