"""Which tokenizers and text encoders a family has, in their order, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextPart:
    """A tokenizer and the text encoder that takes its ids."""

    kinds: tuple[str, ...]  # keys of `model.text_encoder`; several where models of a family differ
    tokenizer: str  # folder in the diffusers layout
    encoder: str  # folder in the diffusers layout
    length: int  # tokens a prompt, padding included, where nothing else is said
    is_optional: bool = False  # whether a model may come without it
    learns: bool = False  # whether it can have adapters: those that diffusers' pipelines load


TEXT_PARTS: dict[str, tuple[TextPart, ...]] = {
    "sdxl": (
        TextPart(("clip_l",), "tokenizer", "text_encoder", 77, learns=True),
        TextPart(("clip_g",), "tokenizer_2", "text_encoder_2", 77, learns=True),
    ),
    "flux": (
        TextPart(("clip_l",), "tokenizer", "text_encoder", 77, learns=True),
        TextPart(("t5",), "tokenizer_2", "text_encoder_2", 512),
    ),
    "flux2": (TextPart(("qwen3", "mistral3"), "tokenizer", "text_encoder", 512),),
    "sd3": (
        TextPart(("clip_l",), "tokenizer", "text_encoder", 77, learns=True),
        TextPart(("clip_g",), "tokenizer_2", "text_encoder_2", 77, learns=True),
        TextPart(("t5",), "tokenizer_3", "text_encoder_3", 256, is_optional=True),
    ),
}  # by model.type; the lengths are those that diffusers' pipelines use by themselves


def text_parts(family: str) -> tuple[TextPart, ...]:
    """Look the parts of a family up by `model.type`.

    Raises:
        ValueError: There is no such family.
    """
    if family not in TEXT_PARTS:
        raise ValueError(
            f"model.type: {family!r} has no text encoders here; use one of {sorted(TEXT_PARTS)!r}"
        )
    return TEXT_PARTS[family]


def text_sizes(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read `model.text_encoder`: the keys that are not null of each kind that the family has.

    Raises:
        ValueError: It names a kind that the family does not have.
    """
    given = {k: v for k, v in (model.get("text_encoder") or {}).items() if v is not None}
    known = [kind for part in text_parts(model["type"]) for kind in part.kinds]
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(
            f"model.text_encoder: {unknown!r} are not text encoders of model.type "
            f"{model['type']!r}, which has {known!r}: remove them"
        )
    return {
        kind: {k: v for k, v in sizes.items() if v is not None} for kind, sizes in given.items()
    }


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Compare the lengths of text encoders whose tokens are laid side by side.

    Raises:
        ValueError: CLIP-L and CLIP-G are given different lengths.
    """
    small, large = lengths.get("clip_l"), lengths.get("clip_g")
    if None not in (small, large) and small != large:
        raise ValueError(
            f"model.text_encoder: max_length of clip_l {small!r} and of clip_g {large!r} must be "
            "equal, their tokens are laid side by side: change either"
        )


def text_lengths(model: Mapping[str, Any]) -> dict[str, int]:
    """Give the lengths that the section `model` asks for, in tokens by kind."""
    sizes = text_sizes(model)
    return {kind: each["max_length"] for kind, each in sizes.items() if "max_length" in each}
