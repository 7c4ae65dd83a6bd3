"""Text encoders that learn with the denoiser: captions are encoded in the training process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modelzoo.adapters import targets
from modelzoo.adapters.adapter import RANK_KEY, adapted
from modelzoo.adapters.start import start_text_from
from modelzoo.adapters.targets import text_patterns
from modelzoo.adapters.text import add_text_adapters
from modelzoo.text_encoders import PromptTokenizer
from stages.base_record import read_record
from stages.params import methods
from stages.params.training import Training
from stages.tokenizers import open_tokenizers
from stages.train.methods.lora import adapter_of
from stages.train.model import Model
from stages.train.samples import Samples

if TYPE_CHECKING:
    from modelzoo.text_encoders.live import LiveText

TOKENS_KEPT = 1 << 14  # captions whose tokens are remembered


@dataclass(frozen=True)
class TextBase:
    """The records of the base's text encoders and tokenizers."""

    family: str
    text_encoder: Path
    tokenizer: Path

    def open_tokenizers(self) -> PromptTokenizer:
        """Load the tokenizers."""
        return open_tokenizers(self.family, read_record(self.tokenizer))


def section_of(training: Training) -> methods.Lora | None:
    """Return `training.lora` where it says that text encoders learn."""
    lora = training.lora
    return lora if lora is not None and lora.train_text_encoder else None


def with_tokens(splits: Mapping[str, Samples], base: TextBase) -> dict[str, Samples]:
    """Let each split give the tokens of its captions beside their stored rows."""
    tokens = CaptionTokens(base.open_tokenizers())
    return {name: replace(samples, tokens=tokens) for name, samples in splits.items()}


def add_live_text(
    model: Model, lora: methods.Lora, base: TextBase, dtype: torch.dtype, seed: int
) -> LiveText:
    """Load the text encoders that learn and add adapters to them, new ones or `init_from`'s.

    Raises:
        FileNotFoundError: A text encoder is not there.
        ValueError: A pattern fits no layer, or `init_from` is of another model.
    """
    from modelzoo.text_encoders.live import load_live_text

    record = read_record(base.text_encoder)
    zero_empty = record.settings["zero_empty"]
    text = load_live_text(base.family, record.folders, base.open_tokenizers(), dtype, zero_empty)
    let_learn(text, model, lora, base.family, seed)
    return text


def let_learn(text: LiveText, model: Model, lora: methods.Lora, family: str, seed: int) -> None:
    """Add adapters to text encoders, new ones or `init_from`'s.

    Raises:
        ValueError: A pattern fits no layer, or `init_from` is of another model.
    """
    adapter = adapter_of(lora)
    patterns = text_patterns(lora.text_target_modules)
    add_text_adapters(text.encoders, adapter, patterns, seed)
    networks = [model.denoiser.network, *text.encoders.values()]
    names = [name for network in networks for name in adapted(network)]
    targets.choose(names, adapter.patterns, RANK_KEY)
    if lora.init_from is not None:
        start_text_from(text.encoders, family, Path(lora.init_from))


class CaptionTokens:
    """Captions as tokens of all tokenizers of the family, one after the other."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokens = lru_cache(TOKENS_KEPT)(tokenizer.tokens)

    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return ids and mask (B, L), as `LiveText` takes them."""
        from modelzoo.text_encoders.live import IDS, MASK

        ids, mask = zip(*map(self._tokens, captions), strict=True)
        return {IDS: torch.tensor(ids), MASK: torch.tensor(mask)}
