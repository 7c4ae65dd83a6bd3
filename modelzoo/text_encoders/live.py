"""Text encoders that learn: their rows with gradients, beside stored rows of those that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from modelzoo.checkpoints.folder import load_component
from modelzoo.text_encoders.clip import ClipTextEncoder
from modelzoo.text_encoders.family import (
    COMBINE,
    FamilyTextEncoder,
    PartRows,
    Rows,
    ZeroForEmpty,
    build_checked,
    pieces,
    zeroed,
)
from modelzoo.text_encoders.text_encoder import PartEncoder, TextEncoder
from modelzoo.text_encoders.tokenization import PromptTokenizer
from modelzoo.text_encoders.tokenization.parts import text_parts

IDS, MASK = "text_ids", "text_mask"  # of a batch's conditions: tokens (B, L) of all tokenizers
# what a stored row says of the text encoders that do not learn, given CLIP's tokens
STORED: dict[str, Callable[[Mapping[str, Tensor], int], PartRows]] = {
    "sdxl": lambda rows, length: {},
    "flux": lambda rows, length: {"t5": {"context": rows["context"]}},
    "sd3": lambda rows, length: {"t5": {"context": rows["context"][:, length:]}},
}


class LiveText(nn.Module):
    """The learning text encoders of a family; T5, which does not learn, is not loaded.

    Args:
        family: `model.type`.
        parts: The learning text encoders by folder, such as "text_encoder_2".
        lengths: Tokens of each of the family's tokenizers, in their order, by kind.
        empty: Tokens of the empty prompt, whose rows are zeros; None: it is as any other.
    """

    _empty: Tensor | None

    def __init__(
        self,
        family: str,
        parts: Mapping[str, PartEncoder],
        lengths: Mapping[str, int],
        empty: list[int] | None,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self._family = family
        self._lengths = dict(lengths)
        self._kinds = {part.encoder: part.kinds[0] for part in text_parts(family) if part.learns}
        ids = None if empty is None else torch.tensor(empty)
        self.register_buffer("_empty", ids, persistent=False)

    def checkpoint_layers(self, is_on: bool) -> None:
        """Compute each layer anew in the backward pass instead of keeping what is inside it."""
        for part in self.encoders.values():
            assert isinstance(part, ClipTextEncoder)
            if is_on:
                part.text_model.activation_checkpointing_enable()

    @property
    def encoders(self) -> Mapping[str, PartEncoder]:
        """The text encoders by folder."""
        return cast(Mapping[str, PartEncoder], self.parts)

    def forward(self, conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replace the stored rows of a batch by those of now, in float32.

        Args:
            conditions: Stored rows of the captions, and their tokens as `IDS` and `MASK`.
        """
        ids, mask = conditions[IDS], conditions[MASK]
        given = pieces(ids, mask, self._lengths)
        rows: dict[str, Rows] = {
            self._kinds[folder]: part.encode_rows(*given[self._kinds[folder]])
            for folder, part in self.encoders.items()
        }
        stored = STORED[self._family](conditions, self._lengths["clip_l"])
        text = COMBINE[self._family]({**rows, **stored})
        if self._empty is not None:
            text = zeroed(text, (ids == self._empty).all(dim=1))
        others = {name: row for name, row in conditions.items() if name not in (IDS, MASK)}
        return {**others, **{name: row.float() for name, row in text.items()}}


def with_tokens(rows: Mapping[str, Tensor], ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Put tokens (B, L) beside the stored rows of their prompts, as `LiveText` takes them."""
    return {**rows, IDS: ids, MASK: mask}


def load_live_text(
    family: str,
    folders: Mapping[str, Path],
    tokenizer: PromptTokenizer,
    dtype: torch.dtype,
    zero_empty: bool = False,
) -> LiveText:
    """Load the text encoders of a family that can learn, frozen as yet.

    Args:
        family: `model.type`.
        folders: By their name in the diffusers layout.
        tokenizer: The family's tokenizers.
        dtype: Of the weights.
        zero_empty: Whether the empty prompt's rows are zeros.

    Raises:
        FileNotFoundError: A text encoder is not there.
        ValueError: The family has none that learns, or weights do not fit.
    """
    learning = [part for part in text_parts(family) if part.learns]
    if not learning:
        raise ValueError(f"the text encoders of model.type {family!r} do not learn: freeze them")
    parts = {
        part.encoder: build_checked(
            family, part.kinds[0], load_component(folders[part.encoder]), tokenizer, dtype
        )
        for part in learning
    }
    lengths = {kind: each.max_length for kind, each in tokenizer.tokenizers.items()}
    return LiveText(family, parts, lengths, tokenizer.tokens("").ids if zero_empty else None)


def learning_parts(family: str, encoder: TextEncoder) -> dict[str, PartEncoder]:
    """Give those of a family's loaded text encoders that can have adapters, by folder."""
    whole = encoder.encoder if isinstance(encoder, ZeroForEmpty) else encoder
    assert isinstance(whole, FamilyTextEncoder)
    parts = cast(Mapping[str, PartEncoder], whole.parts)
    return {part.encoder: parts[part.kinds[0]] for part in text_parts(family) if part.learns}
