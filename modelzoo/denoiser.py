"""What the engine asks of a denoiser, whatever its family; how one is made, read and written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.checkpoints.stream import TensorSource

D = TypeVar("D", bound="Denoiser")
NO_RESIDUALS: Mapping[str, Any] = MappingProxyType({})


class Denoiser(ABC):
    """A network and what surrounds it: noisy latents in, prediction out, tokens inside."""

    NETWORK: ClassVar[type[nn.Module]]  # built from a CONFIG; its name is config.json's _class_name
    CONFIG: ClassVar[Any]  # frozen sizes with from_dict and to_dict, as in config.json

    def __init__(self, network: nn.Module) -> None:
        self.network = network  # what learns; an engine may put a wrapper of it here
        self.config: Any = network.config

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that predictions are computed in."""
        return next(self.network.parameters()).dtype

    @property
    def embeds_guidance(self) -> bool:
        """Whether guidance is an input, as in models distilled from guided ones."""
        return getattr(self.config, "guidance_embeds", False)

    @property
    def patch(self) -> int:
        """Latent cells along a side of a token; sides of latents must be its multiples."""
        return 1

    def num_tokens(self, height: int, width: int) -> int:
        """Count the tokens of latents (B, C, height, width), on which some schedules depend."""
        return (height // self.patch) * (width // self.patch)

    @abstractmethod
    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        conditioning: Any,
        residuals: Mapping[str, Any] = NO_RESIDUALS,
    ) -> Tensor:
        """Give what the family predicts (velocity or epsilon), in the dtype of the noisy latents.

        Args:
            noisy: Latents (B, C, H, W) in the autoencoder's normalised space, mixed with noise.
            t: (B,) in [0, 1]: 0 data, 1 noise.
            conditioning: What `conditioning` of the same family returns.
            residuals: What a ControlNet adds to the network, by the names of its arguments: what
                `modelzoo.controlnet.residuals_of` returns.
        """

    @abstractmethod
    def arguments(self, noisy: Tensor, t: Tensor, conditioning: Any) -> dict[str, Any]:
        """Lay out what the network is called with, given what `predict` is."""

    def followed(self, picture: Tensor) -> Tensor:
        """Lay out a picture as a ControlNet takes it: latents (B, C, H, W), of SDXL pixels."""
        return picture.to(self.dtype)

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
    def row_shapes(self, lengths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Give the shapes of a sample's rows, as `conditioning` takes them, without B.

        Args:
            lengths: Tokens of a text, padding included, by kind of text encoder ("t5").
        """

    def with_pictures(
        self,
        conditioning: Any,
        references: Sequence[Tensor] = (),
        fill: Tensor | None = None,
        time_offset: float | None = None,
    ) -> Any:
        """Add pictures to edit to a conditioning, which is not changed.

        Args:
            conditioning: What `conditioning` gives.
            references: Latents (B, C, h, w) of each picture to look at (Kontext).
            fill: Channels (B, C', H, W) of what is filled, only for Fill models; latents of what is
                followed, only for models widened for control.
            time_offset: Of the references, from one to the next along t; None: the family's own.

        Raises:
            ValueError: The family or the model does not know such pictures.
        """
        raise ValueError(
            f"{type(self).__name__} takes no pictures to edit: use a model of a FLUX family"
        )

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
    return denoiser_from(kind, *load_component(folder), dtype)


def denoiser_from(
    kind: type[D],
    config: Mapping[str, Any],
    source: TensorSource,
    dtype: torch.dtype = torch.float32,
) -> D:
    """Load a denoiser from a config.json's content and tensors of diffusers' names, every key used.

    Raises:
        ValueError: The configuration is of another class, or the weights do not fit.
    """
    denoiser = on_meta(kind, config, source, dtype)
    load_strict(denoiser.network, source, source.where)
    return denoiser


def on_meta(
    kind: type[D], config: Mapping[str, Any], source: TensorSource, dtype: torch.dtype
) -> D:
    """Build a denoiser without values, of a config.json's content.

    Raises:
        ValueError: The configuration is of another class; `source` names it in the error.
    """
    needed = kind.NETWORK.__name__
    if (name := config.get("_class_name")) != needed:
        raise ValueError(
            f"{source.where}: config.json names class {name!r}, but {kind.__name__} needs "
            f"{needed!r}: give the weights of a model of this family"
        )
    with torch.device("meta"):
        network = kind.NETWORK(kind.CONFIG.from_dict(config)).to(dtype)
    return kind(network)


def save_denoiser(denoiser: Denoiser, folder: Path) -> None:
    """Write the network as a diffusers folder."""
    save_component(denoiser.network.state_dict(), denoiser.config.to_dict(), folder)
