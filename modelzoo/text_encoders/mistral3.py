"""Mistral-3 as FLUX.2 dev's text encoder, without its eyes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Mistral3Config, MistralModel, PretrainedConfig

from modelzoo.text_encoders.decoder import OWN_KEY, PREFIX, DecoderTextEncoder

# of the language model, as transformers 4 and 5 write them; the first that fits counts
TEXT_PREFIXES = ("language_model.model.", "model.language_model.", "language_model.")
EYES = ("vision_tower.", "multi_modal_projector.")


class Mistral3TextEncoder(DecoderTextEncoder):
    """Read the text part of a Mistral3ForConditionalGeneration."""

    CONVENTION = "mistral3-chat-hidden-1"
    RELEASED_LAYERS = (10, 20, 30)
    MODEL = MistralModel

    def __init__(self, config: Mapping[str, Any]) -> None:
        values = {k: v for k, v in config.items() if k != OWN_KEY}
        text_config = Mistral3Config.from_dict(values).text_config
        assert isinstance(text_config, PretrainedConfig)  # it builds one from whatever is given
        super().__init__(config, text_config)

    def own_name(self, key: str) -> str | None:
        """Take the language model's tensors under any of their names, and no eyes."""
        if key.removeprefix(PREFIX).startswith(EYES):
            return None
        if key == "language_model.lm_head.weight":
            return None
        for prefix in TEXT_PREFIXES:
            if key.startswith(prefix):
                return super().own_name(f"{PREFIX}{key.removeprefix(prefix)}")
        return super().own_name(key)
