"""Prompts to token ids of a fixed length, without torch, so that light stages start fast."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

MAX_LENGTH = 512  # of FLUX.2's context, padding included; a tokenizer_config.json may say less

# Qwen3's chat template for one user message, generation prompt on, thinking off
QWEN3_BEFORE = "<|im_start|>user\n"
QWEN3_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN3_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN3_MARKS = ["<think>", "</think>"]  # one token each, but not special
# the same as a template that transformers renders
QWEN3_CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)
# how Qwen2Tokenizer cuts text into words: contractions, letters, single digits, punctuation, space
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")


@dataclass(frozen=True)
class Encoded:
    """A prompt as the text encoder takes it."""

    ids: list[int]  # of the tokenizer's max_length, padded on the right
    mask: list[int]  # 1 for tokens, 0 for padding
    num_tokens: int  # of the prompt alone, without the template, before truncation
    truncated: bool  # whether prompt and template are longer than max_length


class Tokenizer:
    """Render a prompt in Qwen3's chat template and tokenize it."""

    def __init__(self, backend: Backend, pad_token: str, max_length: int, where: Path) -> None:
        backend.no_padding()
        backend.no_truncation()
        needed = [pad_token, *QWEN3_SPECIAL]
        if absent := [token for token in needed if backend.token_to_id(token) is None]:
            raise ValueError(
                f"{where}/tokenizer.json lacks the tokens {absent!r} of Qwen3's chat template: "
                "give the tokenizer folder of a FLUX.2 klein model"
            )
        self.max_length = max_length
        self._backend = backend
        self._pad_id = backend.get_vocab()[pad_token]
        self._template_tokens = len(self._tokens(""))
        if self._template_tokens >= max_length:
            raise ValueError(
                f"{where}: max_length {max_length!r} leaves no room for a prompt, the chat "
                f"template alone takes {self._template_tokens} tokens: raise it"
            )

    @property
    def vocab_size(self) -> int:
        """Number of ids, those of added tokens included."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def ids(self, prompt: str) -> Encoded:
        """Tokenize a prompt, with the template around it, to exactly `max_length` ids."""
        tokens = self._tokens(prompt)
        kept = tokens[: self.max_length]
        padding = self.max_length - len(kept)
        return Encoded(
            ids=kept + [self._pad_id] * padding,
            mask=[1] * len(kept) + [0] * padding,
            num_tokens=max(0, len(tokens) - self._template_tokens),
            truncated=len(tokens) > self.max_length,
        )

    def _tokens(self, prompt: str) -> list[int]:
        return self._backend.encode(render(prompt), add_special_tokens=False).ids


def render(prompt: str) -> str:
    """Put a prompt into Qwen3's chat template."""
    return f"{QWEN3_BEFORE}{prompt}{QWEN3_AFTER}"


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load a tokenizer from its folder in a diffusers model.

    The length is `model_max_length` of tokenizer_config.json, but at most 512 as released.

    Raises:
        FileNotFoundError: tokenizer.json or tokenizer_config.json is not there.
        ValueError: The tokenizer is of another kind.
    """
    folder = Path(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: there is no {name}; give the tokenizer folder of a diffusers model"
            )
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if (name := config.get("tokenizer_class")) not in QWEN_CLASSES:
        raise ValueError(
            f"{folder}/tokenizer_config.json names tokenizer_class {name!r}; known are "
            f"{sorted(QWEN_CLASSES)!r}: give the tokenizer of a model of a known family"
        )
    pad_token = config.get("pad_token") or QWEN3_SPECIAL[0]
    return Tokenizer(
        Backend.from_file(str(folder / "tokenizer.json")),
        pad_token if isinstance(pad_token, str) else pad_token["content"],
        min(MAX_LENGTH, int(config.get("model_max_length", MAX_LENGTH))),
        folder,
    )


def train_tokenizer(
    captions: Iterable[str], vocab_size: int, max_length: int, folder: Path
) -> Tokenizer:
    """Train a byte-level BPE like Qwen's on captions, save it to `folder` and load it from there.

    The same captions, in any order, give the same bytes. Few captions may give fewer tokens than
    `vocab_size`.

    Raises:
        ValueError: `vocab_size` does not hold the 256 bytes and the template's marks.
    """
    added = len(QWEN3_SPECIAL) + len(QWEN3_MARKS)
    if vocab_size < 256 + added:
        raise ValueError(
            f"model.from_scratch.vocab_size {vocab_size!r} is too small: 256 bytes and {added} "
            f"marks of the chat template need {256 + added}: raise it"
        )
    backend = _qwen_backend()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # the template's words come with every prompt, so they count as often
    texts = [text for caption in captions for text in (caption, "user", "assistant", "\n\n")]
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken(t, special=True) for t in QWEN3_SPECIAL])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in QWEN3_MARKS])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    text = json.dumps(_tokenizer_config(max_length), indent=2, sort_keys=True)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    return load_tokenizer(folder)


def _qwen_backend() -> Backend:
    backend = Backend(BPE())
    backend.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _tokenizer_config(max_length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": max_length,
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "unk_token": None,
        "bos_token": None,
        "add_prefix_space": False,
        "chat_template": QWEN3_CHAT_TEMPLATE,
    }
