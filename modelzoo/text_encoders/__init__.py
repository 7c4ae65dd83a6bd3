"""Tokenizers and text encoders of all families; importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelzoo.text_encoders.tokenization import (
    TEXT_PARTS,
    Encoded,
    PromptTokenizer,
    TextPart,
    Tokenizer,
    Tokens,
    load_tokenizers,
    text_lengths,
)

if TYPE_CHECKING:
    import torch

    from modelzoo.text_encoders.text_encoder import TextEncoder

__all__ = [
    "TEXT_PARTS",
    "Encoded",
    "PromptTokenizer",
    "TextPart",
    "Tokenizer",
    "Tokens",
    "load_text_encoders",
    "load_tokenizers",
    "make_text_parts",
    "text_lengths",
]


def load_text_encoders(
    family: str,
    folders: Mapping[str, Path],
    tokenizer: PromptTokenizer,
    dtype: torch.dtype,
    zero_empty: bool = False,
) -> TextEncoder:
    """Load the frozen text encoders of a family: see `modelzoo.text_encoders.family`."""
    from modelzoo.text_encoders import family as families

    return families.load_text_encoders(family, folders, tokenizer, dtype, zero_empty)


def make_text_parts(model: Mapping[str, Any], captions: list[str], seed: int, folder: Path) -> None:
    """Make untrained text parts: see `modelzoo.text_encoders.from_scratch`."""
    from modelzoo.text_encoders import from_scratch

    from_scratch.make_text_parts(model, captions, seed, folder)
