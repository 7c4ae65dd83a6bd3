"""What the pipeline asks of a text encoder, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modelzoo.checkpoints.folder import load_strict
from modelzoo.checkpoints.stream import Joined, MemorySource, Selection, TensorSource

P = TypeVar("P", bound="PartEncoder")


class TextEncoder(nn.Module, ABC):
    """Token ids to the rows of the store."""

    CONVENTION: str  # version of what a row means; part of a row's key
    layers: tuple[int, ...]  # hidden states taken; 0 is the embedding

    @abstractmethod
    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids and mask (B, L), int64, as what a row holds, such as context (B, L, D)."""


class PartEncoder(TextEncoder):
    """One of a family's text encoders: as much of a transformers class as its rows need."""

    @abstractmethod
    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build from the content of a config.json."""
        super().__init__()

    @abstractmethod
    def own_name(self, key: str) -> str | None:
        """Give this module's name of a published tensor, None for one that no row depends on.

        A key that is not known stays as it is, so that loading refuses it.
        """

    def complete(self, own: TensorSource) -> dict[str, Tensor]:
        """Give the tensors, by their own names, that a file leaves out."""
        return {}

    def compute_tables(self) -> None:
        """Compute the buffers that are in no file, once the weights are on a real device."""

    def cast(self, dtype: torch.dtype) -> None:
        """Change the dtype that rows are computed in."""
        self.to(dtype)


def build_part(
    kind: type[P],
    config: Mapping[str, Any],
    source: TensorSource,
    dtype: torch.dtype,
) -> P:
    """Build a frozen encoder from a configuration and its tensors, every one used or known.

    Raises:
        ValueError: A tensor is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        encoder = kind(config)
        encoder.cast(dtype)
    load_strict(encoder, _own(encoder, source), source.where)
    encoder.compute_tables()
    return encoder.eval().requires_grad_(False)


def _own(encoder: PartEncoder, source: TensorSource) -> TensorSource:
    """Give a source by the encoder's own names, without what no row depends on."""
    names = {name: key for key in source if (name := encoder.own_name(key)) is not None}
    own = Selection(source, names)
    added = MemorySource(encoder.complete(own), source.where, source.layout)
    return Joined([own, added], source.where, source.layout)
