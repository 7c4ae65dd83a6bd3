"""Make the text half of a small base: tokenizers trained on captions, untrained text encoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Mistral3Config, Mistral3ForConditionalGeneration

from modelzoo.checkpoints.folder import TRANSFORMERS_STEM, save_component
from modelzoo.text_encoders.clip import PROJECTION, ClipPooled, ClipProjected
from modelzoo.text_encoders.configs import text_part_configs, text_part_sizes
from modelzoo.text_encoders.decoder import OWN_KEY
from modelzoo.text_encoders.qwen3 import Qwen3TextEncoder
from modelzoo.text_encoders.t5 import EMBEDDING, T5TextEncoder
from modelzoo.text_encoders.tokenization.parts import text_parts
from modelzoo.text_encoders.tokenizer_training import train_tokenizer

EMBEDDINGS = ("embed_tokens", "token_embedding")
# places, by which alone word order is seen: added to words, or to what attention weighs
PLACES = {"position_embedding": 0.5, "relative_attention_bias": 3.0}
# last layers of what is added to the residual stream, as each architecture calls them
RESIDUAL = ("o_proj.", "down_proj.", "out_proj.", "fc2.", "SelfAttention.o.", ".wo.")


def make_text_parts(
    model: Mapping[str, Any], captions: Sequence[str], seed: int, folder: Path
) -> None:
    """Write the tokenizers and text encoders of the section `model` as a diffusers model has them.

    Raises:
        ValueError: The section asks for what the family does not have or cannot be.
    """
    sizes, configs = text_part_sizes(model), text_part_configs(model)
    vocab_size = model["from_scratch"]["vocab_size"]
    for index, part in enumerate(text_parts(model["type"])):
        for kind in sizes.keys() & set(part.kinds):
            length = sizes[kind]["max_length"]
            train_tokenizer(kind, captions, vocab_size, length, folder / part.tokenizer)
            # text encoders of equal sizes must not be equal
            init_part(kind, configs[kind], seed + index, folder / part.encoder)


def init_part(kind: str, config: Mapping[str, Any], seed: int, folder: Path) -> None:
    """Write an untrained text encoder whose hidden states already tell prompts apart.

    Embeddings are unit normal, linear layers keep the variance (1 / sqrt(fan in)), and what is
    added to the residual stream is divided by sqrt(2 * layers) (Radford et al. 2019).
    """
    state = DRAW[kind](config, torch.Generator().manual_seed(seed))
    save_component(state, config, folder, stem=TRANSFORMERS_STEM)


def _clip(config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    is_projected = config["architectures"] == ["CLIPTextModelWithProjection"]
    encoder = (ClipProjected if is_projected else ClipPooled)(config)
    return _drawn(encoder, config["num_hidden_layers"], generator)


def _clip_l(config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """Draw CLIP-L, whose projection the reference code of SD3 leaves out: it must do nothing."""
    state = _clip(config, generator)
    if PROJECTION in state:
        state[PROJECTION] = torch.eye(*state[PROJECTION].shape)
    return state


def _t5(config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    state = _drawn(T5TextEncoder(config), config["num_layers"], generator)
    for name in state:
        if name.endswith("SelfAttention.q.weight"):
            # T5 does not divide the products of queries and keys (Raffel et al. 2020)
            state[name] = state[name] * config["d_kv"] ** -0.5
    return {"shared.weight" if name == EMBEDDING else name: t for name, t in state.items()}


def _qwen3(config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    depth = config["num_hidden_layers"]
    whole = {**config, OWN_KEY: {"output_layers": [depth]}}
    return _drawn(Qwen3TextEncoder(whole), depth, generator)


def _mistral3(config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a whole Mistral-3, the pictures' half included, for transformers to read."""
    values = {k: v for k, v in config.items() if k != OWN_KEY}
    model = Mistral3ForConditionalGeneration(Mistral3Config.from_dict(values))
    state = _drawn(model.model, config["text_config"]["num_hidden_layers"], generator)
    text = "language_model."  # transformers 4 named what is inside it `model` once more
    return {
        name.replace(text, f"{text}model.", 1) if name.startswith(text) else name: tensor
        for name, tensor in state.items()
    }


DRAW: dict[str, Callable[[Mapping[str, Any], torch.Generator], dict[str, Tensor]]] = {
    "clip_l": _clip_l,
    "clip_g": _clip,
    "t5": _t5,
    "qwen3": _qwen3,
    "mistral3": _mistral3,
}


def _drawn(module: nn.Module, depth: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw all parameters in their order, and give them by name."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0 if name.endswith("bias") else 1)
            else:
                std = _deviation(name, parameter, depth)
                parameter.normal_(0, std, generator=generator)
    return dict(module.state_dict())


def _deviation(name: str, parameter: Tensor, depth: int) -> float:
    for place, std in PLACES.items():
        if place in name:
            return std
    if _has(name, EMBEDDINGS):
        return 1.0
    std = parameter[0].numel() ** -0.5
    return std / math.sqrt(2 * depth) if _has(name, RESIDUAL) else std


def _has(name: str, marks: Iterable[str]) -> bool:
    return any(mark in name for mark in marks)
