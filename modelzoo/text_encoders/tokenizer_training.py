"""Train small tokenizers on captions, in the folders that transformers and diffusers read.

The same captions, in any order, give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.models import Unigram

from modelzoo.text_encoders.tokenization.backends import (
    CLIP_END,
    CLIP_START,
    WORD_END,
    byte_level_backend,
    clip_backend,
    t5_pre_tokenizer,
)
from modelzoo.text_encoders.tokenization.templates import (
    MISTRAL3_CHAT_TEMPLATE,
    MISTRAL3_PAD,
    MISTRAL3_SPECIAL,
    MISTRAL3_SYSTEM,
    QWEN3_CHAT_TEMPLATE,
    QWEN3_MARKS,
    QWEN3_SPECIAL,
)

T5_SPECIAL = ["<pad>", "</s>", "<unk>"]
PRINTABLE = [chr(code) for code in range(33, 127)]


def train_tokenizer(
    kind: str, captions: Sequence[str], vocab_size: int, max_length: int, folder: Path
) -> None:
    """Train a tokenizer of a kind on captions and save it to `folder`.

    Few captions may give fewer tokens than `vocab_size`.

    Args:
        kind: clip_l, clip_g, t5, qwen3 or mistral3.
        captions: What to learn words from.
        vocab_size: Ids at most.
        max_length: Tokens a prompt, padding included.
        folder: Where tokenizer.json, tokenizer_config.json and what else belongs there are put.

    Raises:
        ValueError: `vocab_size` does not hold what every text needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = TRAINERS[kind](captions, vocab_size, folder)
    _write_json({"model_max_length": max_length, **config}, folder / "tokenizer_config.json")


def _train_qwen3(captions: Sequence[str], vocab_size: int, folder: Path) -> dict[str, Any]:
    marks = [*QWEN3_SPECIAL, *QWEN3_MARKS]
    _check_size(vocab_size, 256, len(marks))
    backend = byte_level_backend()
    # the template's words come with every prompt, so they count as often
    texts = [text for caption in captions for text in (caption, "user", "assistant", "\n\n")]
    _train_bytes(backend, texts, vocab_size - len(marks), [])
    backend.add_special_tokens([AddedToken(t, special=True) for t in QWEN3_SPECIAL])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in QWEN3_MARKS])
    backend.save(str(folder / "tokenizer.json"))
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "pad_token": QWEN3_SPECIAL[0],
        "eos_token": "<|im_end|>",
        "unk_token": None,
        "bos_token": None,
        "add_prefix_space": False,
        "chat_template": QWEN3_CHAT_TEMPLATE,
    }


def _train_mistral3(captions: Sequence[str], vocab_size: int, folder: Path) -> dict[str, Any]:
    _check_size(vocab_size, 256, len(MISTRAL3_SPECIAL))
    backend = byte_level_backend()
    texts = [text for caption in captions for text in (caption, MISTRAL3_SYSTEM)]
    _train_bytes(backend, texts, vocab_size, MISTRAL3_SPECIAL)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(MISTRAL3_CHAT_TEMPLATE, encoding="utf-8")
    # what a PixtralProcessor reads besides; prompts bring no pictures
    signs = {f"image_{name}token": f"[IMG{mark}]" for name, mark in IMAGE_SIGNS.items()}
    sizes = {"patch_size": 14, "spatial_merge_size": 2}
    _write_json({"processor_class": PIXTRAL, **signs, **sizes}, folder / "processor_config.json")
    pictures = {"image_processor_type": "PixtralImageProcessor", "patch_size": 14}
    pictures["size"] = {"longest_edge": 1540}
    _write_json({**pictures, "processor_class": PIXTRAL}, folder / "preprocessor_config.json")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": PIXTRAL,
        "padding_side": "left",
        "pad_token": MISTRAL3_PAD,
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
    }


def _train_clip(pad_token: str, captions: Sequence[str], size: int, folder: Path) -> dict[str, Any]:
    """Train CLIP's BPE and lay its ids out as released: letters, last letters, merges, marks."""
    letters = _byte_letters()
    alphabet = [*letters, *(letter + WORD_END for letter in letters)]
    _check_size(size, len(alphabet), 2)
    backend = clip_backend({CLIP_END: 0}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=letters, end_of_word_suffix=WORD_END, show_progress=False
    )
    backend.train_from_iterator(captions, trainer)
    learned = json.loads(backend.to_str())["model"]["merges"]
    merges = [(left, right) for left, right in learned][: size - len(alphabet) - 2]
    tokens = [*alphabet, *(left + right for left, right in merges), CLIP_START, CLIP_END]
    vocab = {token: index for index, token in enumerate(tokens)}
    _write_json(vocab, folder / "vocab.json", sort_keys=False)
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "tokenizer_class": "CLIPTokenizer",
        "pad_token": pad_token,
        "eos_token": CLIP_END,
        "unk_token": CLIP_END,
        "bos_token": CLIP_START,
        "do_lower_case": True,
        "add_prefix_space": False,
    }


def _train_t5(captions: Sequence[str], vocab_size: int, folder: Path) -> dict[str, Any]:
    """Take the most frequent words as pieces, beside the letters that spell the others.

    The trainer of the tokenizers library gives other bytes in every process.
    """
    cut = t5_pre_tokenizer()
    words = Counter(word for caption in captions for word, _ in cut.pre_tokenize_str(caption))
    letters = Counter({letter: 1 for letter in ["▁", *PRINTABLE]})
    for word, count in words.items():
        letters.update(dict.fromkeys(word, count))
    _check_size(vocab_size, len(letters), len(T5_SPECIAL))
    room = vocab_size - len(letters) - len(T5_SPECIAL)
    frequent = [w for w in sorted(words, key=lambda w: (-words[w], w)) if len(w) > 1][:room]
    total = sum(words[w] for w in frequent) + letters.total()
    pieces = [(w, math.log(words[w] / total)) for w in frequent]
    # a letter costs more than any word, so that a known word is never spelled
    rare = math.log(1 / total)
    spelled = sorted(letters, key=lambda letter: (-letters[letter], letter))
    pieces += [(letter, rare + math.log(letters[letter] / total)) for letter in spelled]
    backend = Backend(Unigram([(t, 0.0) for t in T5_SPECIAL] + pieces, 2, False))
    backend.pre_tokenizer = cut
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    backend.add_special_tokens([AddedToken(t, special=True) for t in T5_SPECIAL])
    backend.save(str(folder / "tokenizer.json"))
    return {
        "tokenizer_class": "T5Tokenizer",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "extra_ids": 0,
    }


PIXTRAL = "PixtralProcessor"
IMAGE_SIGNS = {"": "", "break_": "_BREAK", "end_": "_END"}
TRAINERS: dict[str, Callable[[Sequence[str], int, Path], dict[str, Any]]] = {
    "clip_l": lambda *args: _train_clip(CLIP_END, *args),
    "clip_g": lambda *args: _train_clip("!", *args),  # id 0, as bigG was trained
    "t5": _train_t5,
    "qwen3": _train_qwen3,
    "mistral3": _train_mistral3,
}


def _train_bytes(backend: Backend, texts: list[str], vocab_size: int, special: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)


def _byte_letters() -> list[str]:
    """List the letters that stand for bytes: first those that print as themselves, by their code.

    Byte-level BPE gives each other byte the next code from 256 on (Radford et al. 2019).
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return sorted(alphabet, key=ord)


def _check_size(vocab_size: int, alphabet: int, marks: int) -> None:
    if vocab_size < alphabet + marks:
        raise ValueError(
            f"model.from_scratch.vocab_size {vocab_size!r} is too small: {alphabet} letters or "
            f"bytes and {marks} marks need {alphabet + marks}: raise it"
        )


def _write_json(values: Mapping[str, Any], path: Path, sort_keys: bool = True) -> None:
    text = json.dumps(values, indent=2, sort_keys=sort_keys)
    path.write_text(text + "\n", encoding="utf-8")
