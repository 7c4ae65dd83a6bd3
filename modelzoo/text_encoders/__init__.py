"""Text encoders by the class name that their config.json bears; importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelzoo.text_encoders.tokenization import Encoded, Tokenizer, load_tokenizer, train_tokenizer

if TYPE_CHECKING:
    import torch

    from modelzoo.text_encoders.text_encoder import TextEncoder

__all__ = [
    "TEXT_ENCODERS",
    "Encoded",
    "Tokenizer",
    "init_text_encoder",
    "load_text_encoder",
    "load_tokenizer",
    "train_tokenizer",
]


def _load_qwen3(folder: Path, dtype: torch.dtype) -> TextEncoder:
    from modelzoo.text_encoders.qwen3 import load_qwen3

    return load_qwen3(folder, dtype)


TEXT_ENCODERS: dict[str, Callable[[Path, torch.dtype], TextEncoder]] = {
    "Qwen3ForCausalLM": _load_qwen3
}


def load_text_encoder(folder: Path, tokenizer: Tokenizer, dtype: torch.dtype) -> TextEncoder:
    """Load a frozen text encoder from its transformers folder, and check that the tokenizer fits.

    Raises:
        ValueError: The class is unknown, the weights do not fit, or ids exceed the embedding.
    """
    from modelzoo.checkpoints.folder import read_config

    config = read_config(folder)
    name = _class_name(config, str(folder))
    if tokenizer.vocab_size > config["vocab_size"]:
        raise ValueError(
            f"{folder}: the embedding has {config['vocab_size']} rows, but the tokenizer gives "
            f"{tokenizer.vocab_size} ids: take tokenizer and text encoder of the same model"
        )
    return TEXT_ENCODERS[name](folder, dtype)


def init_text_encoder(config: Mapping[str, Any], seed: int, folder: Path) -> None:
    """Write an untrained text encoder of a config.json, initialised from a seed, to `folder`."""
    from modelzoo.text_encoders.qwen3 import init_qwen3

    _class_name(config, "the given configuration")
    init_qwen3(config, seed, folder)


def _class_name(config: Mapping[str, Any], where: str) -> str:
    names = config.get("architectures") or [None]
    if names[0] not in TEXT_ENCODERS:
        raise ValueError(
            f"{where}: config.json names {names[0]!r}; known text encoders are "
            f"{sorted(TEXT_ENCODERS)!r}: give the text_encoder folder of a model of a known family"
        )
    return names[0]
