"""What the pipeline asks of a text encoder, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class TextEncoder(nn.Module, ABC):
    """Token ids to the rows of the store."""

    CONVENTION: str  # version of what a row means; part of a row's key
    layers: tuple[int, ...]  # hidden states taken; 0 is the embedding

    @abstractmethod
    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids and mask (B, L), int64, as what a row holds, such as context (B, L, D)."""
