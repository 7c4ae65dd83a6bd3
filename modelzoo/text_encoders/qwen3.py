"""Qwen3 as a text encoder: hidden states of some of its layers, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

from modelzoo.checkpoints.folder import (
    TRANSFORMERS_STEM,
    load_component,
    load_strict,
    save_component,
)
from modelzoo.text_encoders.text_encoder import TextEncoder

RELEASED_LAYERS = (9, 18, 27)  # of FLUX.2 klein
OWN_KEY = (
    "diffbase"  # config.json: {"output_layers": [...]}; transformers keeps it, diffusers ignores it
)
PREFIX = "model."  # of Qwen3Model's keys in a Qwen3ForCausalLM file


class Qwen3TextEncoder(TextEncoder):
    """Run Qwen3 up to the last layer taken."""

    CONVENTION = "qwen3-chat-hidden-1"

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build from the content of a Qwen3ForCausalLM config.json."""
        super().__init__()
        self.layers = output_layers(config)
        total = config["num_hidden_layers"]
        if not self.layers or not 0 <= min(self.layers) <= max(self.layers) <= total:
            raise ValueError(
                f"text_encoder/config.json: output_layers {list(self.layers)!r} must lie between 0 "
                f"and num_hidden_layers {total!r}: set {OWN_KEY}.output_layers to layers it has"
            )
        depth = max(self.layers)
        values = {k: v for k, v in config.items() if k not in (OWN_KEY, "layer_types")}
        self.model = Qwen3Model(Qwen3Config.from_dict({**values, "num_hidden_layers": depth}))
        if depth < total:
            # only the last of all hidden states is normed; transformers norms the last it has
            self.model.norm = nn.Identity()  # type: ignore[assignment]

    @torch.no_grad()
    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids and mask (B, L) as context (B, L, layers * width), layer after layer."""
        output = self.model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        )
        states = [output.hidden_states[layer] for layer in self.layers]
        return {"context": torch.cat(states, dim=-1)}


def output_layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Give the hidden states that a text encoder's config.json says to take."""
    return tuple(config.get(OWN_KEY, {}).get("output_layers", RELEASED_LAYERS))


def load_qwen3(folder: Path, dtype: torch.dtype) -> Qwen3TextEncoder:
    """Load the layers needed of a Qwen3ForCausalLM folder, frozen."""
    config, state = load_component(folder)
    with torch.device("meta"):
        encoder = Qwen3TextEncoder(config).to(dtype)
    unused = [k for k in state if _is_unused(k, encoder)]
    kept = {k: v for k, v in state.items() if k not in unused}
    load_strict(encoder, kept, folder)
    # its table of frequencies is in no file, so it is computed on a real device
    encoder.model.rotary_emb = type(encoder.model.rotary_emb)(encoder.model.config)
    return encoder.eval().requires_grad_(False)


def _is_unused(key: str, encoder: Qwen3TextEncoder) -> bool:
    """Tell whether a key belongs to what comes after the last hidden state taken."""
    if key == "lm_head.weight":
        return True
    if key == f"{PREFIX}norm.weight":
        return isinstance(encoder.model.norm, nn.Identity)
    parts = key.removeprefix(f"{PREFIX}layers.").split(".")
    return key.startswith(f"{PREFIX}layers.") and int(parts[0]) >= len(encoder.model.layers)


def init_qwen3(config: Mapping[str, Any], seed: int, folder: Path) -> None:
    """Write an untrained Qwen3 whose hidden states already tell prompts apart.

    Embeddings are unit normal, linear layers keep the variance (1 / sqrt(fan in)), and what is
    added to the residual stream is divided by sqrt(2 * layers) (Radford et al. 2019).
    """
    encoder = Qwen3TextEncoder(
        {**config, OWN_KEY: {"output_layers": [config["num_hidden_layers"]]}}
    )
    generator = torch.Generator().manual_seed(seed)
    residual = 1 / math.sqrt(2 * config["num_hidden_layers"])
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1)
                continue
            std = 1.0 if "embed_tokens" in name else parameter.shape[1] ** -0.5
            if "o_proj" in name or "down_proj" in name:
                std *= residual
            parameter.normal_(0, std, generator=generator)
    save_component(encoder.state_dict(), config, folder, stem=TRANSFORMERS_STEM)
