"""What the engine asks of a denoiser, whatever its family, and how one is made, read and written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from modelzoo.checkpoints.folder import load_component, load_strict, save_component

D = TypeVar("D", bound="Denoiser")


class Denoiser(ABC):
    """A network and what surrounds it: noisy latents in, prediction out, tokens inside."""

    NETWORK: ClassVar[type[nn.Module]]  # built from a CONFIG; its name is config.json's _class_name
    CONFIG: ClassVar[type]  # frozen sizes with from_dict and to_dict, as in config.json

    def __init__(self, network: nn.Module) -> None:
        self.network = network  # what learns; an engine may put a wrapper of it here
        self.config: Any = network.config

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that predictions are computed in."""
        return next(self.network.parameters()).dtype

    @abstractmethod
    def predict(self, noisy: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        """Give what the family predicts (velocity or epsilon), in the dtype of the noisy latents.

        Args:
            noisy: Latents (B, C, H, W) in the autoencoder's normalised space, mixed with noise.
            t: (B,) in [0, 1]: 0 data, 1 noise.
            conditioning: What `conditioning` of the same family returns.
        """

    @abstractmethod
    def conditioning(self, rows: Mapping[str, Tensor], guidance: float | None = None) -> Any:
        """Make the conditioning of a batch, a NamedTuple, from what is stored for each sample.

        Args:
            rows: "context" (B, L, D); where the family has it "pooled" (B, P); for SDXL "sizes"
                (B, 6): original height and width, crop top and left, target height and width.
            guidance: Of models that embed it; None: the value the model is sampled with.

        Raises:
            ValueError: A row is missing, or guidance is given to a model that does not embed it.
        """

    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """List the blocks that are checkpointed, compiled, sharded or offloaded one by one."""

    @staticmethod
    @abstractmethod
    def init_weights(network: nn.Module, generator: torch.Generator) -> None:
        """Fill every parameter and buffer of an untrained network, on the CPU."""


def init_denoiser(kind: type[D], config: Any, seed: int) -> D:
    """Make an untrained denoiser in float32, by the family's initialisation, from a seed."""
    with torch.device("meta"):
        network = kind.NETWORK(config)
    network.to_empty(device="cpu")
    with torch.no_grad():
        kind.init_weights(network, torch.Generator().manual_seed(seed))
    return kind(network)


def load_denoiser(kind: type[D], folder: Path, dtype: torch.dtype = torch.float32) -> D:
    """Load a denoiser from its folder in a diffusers model, every key used.

    Raises:
        FileNotFoundError: The folder is not there or not complete.
        ValueError: The folder holds another class, or the weights do not fit.
    """
    config, state = load_component(folder)
    needed = kind.NETWORK.__name__
    if (name := config.get("_class_name")) != needed:
        raise ValueError(
            f"{folder}: config.json names class {name!r}, but {kind.__name__} needs {needed!r}: "
            "give the folder of a model of this family"
        )
    with torch.device("meta"):
        network = kind.NETWORK(kind.CONFIG.from_dict(config)).to(dtype)
    return kind(load_strict(network, state, folder))


def save_denoiser(denoiser: Denoiser, folder: Path) -> None:
    """Write the network as a diffusers folder."""
    save_component(denoiser.network.state_dict(), denoiser.config.to_dict(), folder)
