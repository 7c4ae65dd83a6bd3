"""Tokenizers from their folders in a diffusers model, as transformers would read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from modelzoo.text_encoders.tokenization.backends import clip_backend
from modelzoo.text_encoders.tokenization.parts import TextPart, check_lengths, text_parts
from modelzoo.text_encoders.tokenization.templates import (
    MISTRAL3_PAD,
    QWEN3_SPECIAL,
    render_mistral3,
    render_qwen3,
)
from modelzoo.text_encoders.tokenization.tokenizer import (
    ChatTokenizer,
    MarkedTokenizer,
    PromptTokenizer,
    Tokenizer,
    require_tokens,
)

Config = Mapping[str, Any]  # the content of tokenizer_config.json
# a Mistral tokenizer's class says little, so its processor's is asked first
CLASSES = {
    "CLIPTokenizer": ("clip_l", "clip_g"),
    "T5Tokenizer": ("t5",),
    "Qwen2Tokenizer": ("qwen3",),
    "PixtralProcessor": ("mistral3",),
}
ADDED_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def load_tokenizers(
    family: str, folders: Mapping[str, Path], lengths: Mapping[str, int] | None = None
) -> PromptTokenizer:
    """Load the tokenizers of a family.

    Args:
        family: `model.type`.
        folders: By their name in the diffusers layout, such as "tokenizer_2"; others are ignored.
        lengths: By kind, such as "t5": tokens a prompt, padding included. Otherwise what the
            family's pipeline uses by itself, but no more than the tokenizer's model_max_length.

    Raises:
        FileNotFoundError: A folder or a file is not there.
        ValueError: A tokenizer is of another kind, or is asked for more than its model takes.
    """
    tokenizers: dict[str, Tokenizer] = {}
    all_lengths: dict[str, int] = {}
    for part in text_parts(family):
        if part.tokenizer in folders:
            tokenizer = _load(part, Path(folders[part.tokenizer]), lengths or {})
            tokenizers[tokenizer.kind] = tokenizer
            all_lengths[tokenizer.kind] = tokenizer.max_length
        elif part.is_optional:
            (kind,) = part.kinds
            all_lengths[kind] = (lengths or {}).get(kind, part.length)
        else:
            raise FileNotFoundError(
                f"model.type {family!r} needs a folder {part.tokenizer!r}, but there are only "
                f"{sorted(folders)!r}: complete the model"
            )
    check_lengths(all_lengths)
    return PromptTokenizer(tokenizers, all_lengths)


def _load(part: TextPart, folder: Path, lengths: Mapping[str, int]) -> Tokenizer:
    config = _read_json(folder, "tokenizer_config.json")
    kind = _kind(part, config, folder)
    most = int(config.get("model_max_length") or part.length)
    length = lengths.get(kind, min(part.length, most))
    if length > most:
        raise ValueError(
            f"model.text_encoder.{kind}.max_length {length!r} is more than the model_max_length "
            f"{most!r} of {folder}/tokenizer_config.json: lower it"
        )
    return LOADERS[kind](folder, config, kind, length)


def _kind(part: TextPart, config: Config, folder: Path) -> str:
    """Choose the kind of a part that a tokenizer is of, by the classes that its folder names."""
    named = [config.get("processor_class"), str(config.get("tokenizer_class")).removesuffix("Fast")]
    for name in named:
        for kind in CLASSES.get(str(name), ()):
            if kind in part.kinds:
                return kind
    needed = sorted(name for name, kinds in CLASSES.items() if set(kinds) & set(part.kinds))
    raise ValueError(
        f"{folder}/tokenizer_config.json names tokenizer_class {config.get('tokenizer_class')!r}, "
        f"but one of {needed!r} is needed: give the tokenizer of a model of this family"
    )


def _load_clip(folder: Path, config: Config, kind: str, length: int) -> Tokenizer:
    """Load CLIP's BPE, which is published as vocab.json and merges.txt or as tokenizer.json."""
    if (folder / "tokenizer.json").is_file():
        model = _read_json(folder, "tokenizer.json")["model"]
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        backend = clip_backend(model["vocab"], [(left, right) for left, right in pairs])
    else:
        files = [_require(folder, name) for name in ("vocab.json", "merges.txt")]
        backend = clip_backend(*BPE.read_file(*map(str, files)))
    _add_tokens(backend, config)
    marks = [_content(config, name) for name in ("bos_token", "eos_token", "pad_token")]
    return MarkedTokenizer(kind, backend, marks[2], length, folder, [marks[0]], [marks[1]])


def _load_t5(folder: Path, config: Config, kind: str, length: int) -> Tokenizer:
    pad, eos = _content(config, "pad_token"), _content(config, "eos_token")
    return MarkedTokenizer(kind, _backend(folder), pad, length, folder, [], [eos])


def _load_qwen3(folder: Path, config: Config, kind: str, length: int) -> Tokenizer:
    backend = _backend(folder)
    require_tokens(backend, QWEN3_SPECIAL, folder)
    pad = _content({"pad_token": QWEN3_SPECIAL[0], **config}, "pad_token")
    return ChatTokenizer(kind, backend, pad, length, folder, render_qwen3)


def _load_mistral3(folder: Path, config: Config, kind: str, length: int) -> Tokenizer:
    """Load Mistral-3's tokenizer, which pads on the left where its configuration says nothing."""
    backend = _backend(folder)
    require_tokens(backend, ["<s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"], folder)
    pad = _content({"pad_token": MISTRAL3_PAD, **config}, "pad_token")
    pads_left = config.get("padding_side", "left") == "left"
    return ChatTokenizer(kind, backend, pad, length, folder, render_mistral3, pads_left)


LOADERS: dict[str, Callable[[Path, Config, str, int], Tokenizer]] = {
    "clip_l": _load_clip,
    "clip_g": _load_clip,
    "t5": _load_t5,
    "qwen3": _load_qwen3,
    "mistral3": _load_mistral3,
}


def _add_tokens(backend: Backend, config: Config) -> None:
    """Let the tokens that a configuration adds stand for themselves wherever a text has them."""
    named = [config.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")]
    table = config.get("added_tokens_decoder") or {}  # its flags count, as in transformers
    added: dict[str, AddedToken] = {}
    for token in [*filter(None, named), *(table[index] for index in sorted(table, key=int))]:
        values = token if isinstance(token, Mapping) else {"content": token}
        flags = {name: values[name] for name in ADDED_FLAGS if name in values}
        added[values["content"]] = AddedToken(values["content"], special=True, **flags)
    backend.add_tokens(list(added.values()))


def _content(config: Config, name: str) -> str:
    token = config.get(name)
    if not token:
        raise ValueError(
            f"tokenizer_config.json lacks {name!r}, which prompts are marked with: complete it"
        )
    return str(token["content"]) if isinstance(token, Mapping) else str(token)


def _backend(folder: Path) -> Backend:
    return Backend.from_file(str(_require(folder, "tokenizer.json")))


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(_require(folder, name).read_text(encoding="utf-8"))
    return values


def _require(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder}: there is no {name}; give the tokenizer folder of a diffusers model"
        )
    return folder / name
