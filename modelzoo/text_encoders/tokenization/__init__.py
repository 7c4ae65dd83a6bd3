"""Prompts to token ids, of every family, without torch, so that light stages start fast."""

from modelzoo.text_encoders.tokenization.folder import load_tokenizers
from modelzoo.text_encoders.tokenization.parts import TEXT_PARTS, TextPart, text_lengths
from modelzoo.text_encoders.tokenization.tokenizer import (
    Encoded,
    PromptTokenizer,
    Tokenizer,
    Tokens,
)

__all__ = [
    "TEXT_PARTS",
    "Encoded",
    "PromptTokenizer",
    "TextPart",
    "Tokenizer",
    "Tokens",
    "load_tokenizers",
    "text_lengths",
]
