"""Qwen3 as FLUX.2 klein's text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Qwen3Config, Qwen3Model

from modelzoo.text_encoders.decoder import OWN_KEY, DecoderTextEncoder


class Qwen3TextEncoder(DecoderTextEncoder):
    """Read a Qwen3ForCausalLM."""

    CONVENTION = "qwen3-chat-hidden-1"
    RELEASED_LAYERS = (9, 18, 27)
    MODEL = Qwen3Model

    def __init__(self, config: Mapping[str, Any]) -> None:
        values = {k: v for k, v in config.items() if k not in (OWN_KEY, "layer_types")}
        super().__init__(config, Qwen3Config.from_dict(values))
