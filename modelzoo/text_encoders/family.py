"""The text encoders of a family as one: what a prompt's row holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.checkpoints.folder import load_component
from modelzoo.checkpoints.stream import TensorSource
from modelzoo.text_encoders.clip import (
    ClipHidden,
    ClipOptionallyProjected,
    ClipPooled,
    ClipProjected,
)
from modelzoo.text_encoders.mistral3 import Mistral3TextEncoder
from modelzoo.text_encoders.qwen3 import Qwen3TextEncoder
from modelzoo.text_encoders.t5 import T5TextEncoder
from modelzoo.text_encoders.text_encoder import PartEncoder, TextEncoder, build_part
from modelzoo.text_encoders.tokenization import PromptTokenizer
from modelzoo.text_encoders.tokenization.parts import text_parts

Rows = dict[str, Tensor]
PartRows = Mapping[str, Rows]  # by kind
Component = tuple[Mapping[str, Any], TensorSource]  # config.json and weights
T5_WIDTH = 4096  # of SD3's context where there is no T5 to ask

# how each family takes each text encoder
ENCODERS: dict[str, dict[str, type[PartEncoder]]] = {
    "sdxl": {"clip_l": ClipHidden, "clip_g": ClipProjected},
    "flux": {"clip_l": ClipPooled, "t5": T5TextEncoder},
    "flux2": {"qwen3": Qwen3TextEncoder, "mistral3": Mistral3TextEncoder},
    "sd3": {"clip_l": ClipOptionallyProjected, "clip_g": ClipProjected, "t5": T5TextEncoder},
}
# what config.json's first architecture may say
CLASSES = {
    "clip_l": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "clip_g": ("CLIPTextModelWithProjection",),
    "t5": ("T5EncoderModel", "T5ForConditionalGeneration"),
    "qwen3": ("Qwen3ForCausalLM",),
    "mistral3": ("Mistral3ForConditionalGeneration",),
}


def _sdxl(rows: PartRows) -> Rows:
    """Lay CLIP-L and CLIP-G side by side (Podell et al. 2023, section 2.1); pooled is CLIP-G's."""
    context = torch.cat([rows["clip_l"]["context"], rows["clip_g"]["context"]], dim=-1)
    return {"context": context, "pooled": rows["clip_g"]["pooled"]}


def _flux(rows: PartRows) -> Rows:
    return {"context": rows["t5"]["context"], "pooled": rows["clip_l"]["pooled"]}


def _flux2(rows: PartRows) -> Rows:
    (only,) = rows.values()
    return only


def _sd3(rows: PartRows) -> Rows:
    """Put both CLIPs, widened with zeros, before T5 (Esser et al. 2024, section 4)."""
    clip = _sdxl(rows)["context"]
    t5 = rows["t5"]["context"]
    widened = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
    pooled = torch.cat([rows["clip_l"]["pooled"], rows["clip_g"]["pooled"]], dim=-1)
    return {"context": torch.cat([widened, t5], dim=1), "pooled": pooled}


def _sd3_without_t5(length: int) -> Callable[[PartRows], Rows]:
    """Let zeros stand for T5's `length` tokens, as diffusers does."""

    def combine(rows: PartRows) -> Rows:
        clip = rows["clip_l"]["context"]
        zeros = clip.new_zeros(len(clip), length, T5_WIDTH)
        return _sd3({**rows, "t5": {"context": zeros}})

    return combine


COMBINE: dict[str, Callable[[PartRows], Rows]] = {
    "sdxl": _sdxl,
    "flux": _flux,
    "flux2": _flux2,
    "sd3": _sd3,
}


class FamilyTextEncoder(TextEncoder):
    """Give each text encoder its own ids, and put what they say together.

    Args:
        parts: Text encoders by kind.
        lengths: Tokens of each of the tokenizers, in their order, by kind.
        combine: Rows of each part to those of the prompt.
    """

    def __init__(
        self,
        parts: Mapping[str, PartEncoder],
        lengths: Mapping[str, int],
        combine: Callable[[PartRows], Rows],
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.CONVENTION = "+".join(part.CONVENTION for part in parts.values())
        self.layers = tuple(layer for part in parts.values() for layer in part.layers)
        self._lengths = dict(lengths)
        self._combine = combine

    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids and mask (B, sum of lengths) as context (B, L, D) and, if any, pooled."""
        given = pieces(ids, mask, self._lengths)
        parts = cast(Mapping[str, PartEncoder], self.parts)
        rows = {kind: part.encode_rows(*given[kind]) for kind, part in parts.items()}
        return self._combine(rows)


def pieces(
    ids: Tensor, mask: Tensor, lengths: Mapping[str, int]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Cut ids and mask (B, sum of lengths) into those of each text encoder, by kind."""
    sizes = list(lengths.values())
    both = zip(ids.split(sizes, dim=1), mask.split(sizes, dim=1), strict=True)
    return dict(zip(lengths, both, strict=True))


class ZeroForEmpty(TextEncoder):
    """Let zeros stand for the empty prompt, as SDXL does (`force_zeros_for_empty_prompt`)."""

    empty_ids: Tensor

    def __init__(self, encoder: TextEncoder, empty_ids: list[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.CONVENTION = f"{encoder.CONVENTION}+zero-empty"
        self.layers = encoder.layers
        self.register_buffer("empty_ids", torch.tensor(empty_ids), persistent=False)

    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids and mask (B, L); a prompt of the empty one's ids becomes zeros."""
        return zeroed(self.encoder.encode_rows(ids, mask), (ids == self.empty_ids).all(dim=1))


def zeroed(rows: Rows, is_empty: Tensor) -> Rows:
    """Let zeros stand for the rows of prompts (B,) that are empty."""
    return {
        name: row.masked_fill(is_empty.view(-1, *[1] * (row.ndim - 1)), 0)
        for name, row in rows.items()
    }


def load_text_encoders(
    family: str,
    folders: Mapping[str, Path],
    tokenizer: PromptTokenizer,
    dtype: torch.dtype,
    zero_empty: bool = False,
) -> TextEncoder:
    """Load the frozen text encoders of a family from their folders: see `build_text_encoders`.

    Args:
        family: `model.type`.
        folders: By their name in the diffusers layout, such as "text_encoder_2"; others are
            ignored.
        tokenizer: The family's tokenizers.
        dtype: Of the weights and the rows.
        zero_empty: Whether the empty prompt's row is zeros.

    Raises:
        FileNotFoundError: A text encoder or its tokenizer is not there.
        ValueError: A class is unknown, weights do not fit, or ids exceed an embedding.
    """
    names = [part.encoder for part in text_parts(family) if part.encoder in folders]
    components = {name: load_component(Path(folders[name])) for name in names}
    return build_text_encoders(family, components, tokenizer, dtype, zero_empty)


def build_text_encoders(
    family: str,
    components: Mapping[str, Component],
    tokenizer: PromptTokenizer,
    dtype: torch.dtype,
    zero_empty: bool = False,
) -> TextEncoder:
    """Build the frozen text encoders of a family, and check that the tokenizers fit.

    Args:
        family: `model.type`.
        components: config.json and tensors by folder name; SD3 may lack "text_encoder_3".
        tokenizer: The family's tokenizers.
        dtype: Of the weights and the rows.
        zero_empty: Whether the empty prompt's row is zeros.

    Raises:
        FileNotFoundError: A text encoder or its tokenizer is not there.
        ValueError: A class is unknown, weights do not fit, or ids exceed an embedding.
    """
    parts: dict[str, PartEncoder] = {}
    combine = COMBINE[family]
    for part in text_parts(family):
        kinds = [kind for kind in part.kinds if kind in tokenizer.tokenizers]
        if kinds and part.encoder in components:
            component = components[part.encoder]
            parts[kinds[0]] = build_checked(family, kinds[0], component, tokenizer, dtype)
        elif part.is_optional and not kinds and part.encoder not in components:
            combine = _sd3_without_t5(tokenizer.lengths["t5"])
        else:
            raise FileNotFoundError(
                f"model.type {family!r} needs the folders {part.tokenizer!r} and {part.encoder!r}, "
                f"but there are only {sorted(components)!r} and tokenizers of "
                f"{sorted(tokenizer.tokenizers)!r}: complete the model"
            )
    lengths = {kind: each.max_length for kind, each in tokenizer.tokenizers.items()}
    encoder = FamilyTextEncoder(parts, lengths, combine)
    return ZeroForEmpty(encoder, tokenizer.tokens("").ids) if zero_empty else encoder


def build_checked(
    family: str, kind: str, component: Component, tokenizer: PromptTokenizer, dtype: torch.dtype
) -> PartEncoder:
    """Build one frozen text encoder of a family.

    Raises:
        ValueError: A class is unknown, weights do not fit, or ids exceed an embedding.
    """
    config, source = component
    _check(kind, config, source.where, tokenizer)
    return build_part(ENCODERS[family][kind], config, source, dtype)


def _check(kind: str, config: Mapping[str, Any], where: str, tokenizer: PromptTokenizer) -> None:
    """Compare a configuration with the kind that is needed and with the tokenizer."""
    names = config.get("architectures") or [None]
    if names[0] not in CLASSES[kind]:
        raise ValueError(
            f"{where}: config.json names {names[0]!r}, but one of {CLASSES[kind]!r} is needed: "
            "give the text encoder that belongs to the tokenizer"
        )
    sizes = config.get("text_config", config)
    given = tokenizer.tokenizers[kind]
    rows, positions = sizes.get("vocab_size"), sizes.get("max_position_embeddings")
    if rows is not None and given.vocab_size > rows:
        raise ValueError(
            f"{where}: the embedding has {rows} rows, but the tokenizer gives "
            f"{given.vocab_size} ids: take tokenizer and text encoder of the same model"
        )
    if positions is not None and given.max_length > positions:
        raise ValueError(
            f"{where}: there are {positions} positions, but a prompt has {given.max_length} "
            f"tokens: lower model.text_encoder.{kind}.max_length"
        )
