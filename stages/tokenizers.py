"""The tokenizers that a record of the base model names; importing this imports no torch."""

from __future__ import annotations

from modelzoo.text_encoders.tokenization import PromptTokenizer, load_tokenizers
from stages.base_record import Record


def open_tokenizers(family: str, record: Record) -> PromptTokenizer:
    """Load the tokenizers of a record, each with the length that the record gives it."""
    return load_tokenizers(family, record.folders, record.settings["lengths"])
