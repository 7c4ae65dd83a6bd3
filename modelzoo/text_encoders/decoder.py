"""Language models as text encoders: hidden states of some of their layers, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from modelzoo.text_encoders.text_encoder import PartEncoder

OWN_KEY = (
    "diffbase"  # config.json: {"output_layers": [...]}; transformers keeps it, diffusers ignores it
)
PREFIX = "model."  # of the language model's keys, without its output layer


class DecoderTextEncoder(PartEncoder):
    """Run a decoder-only language model up to the last layer taken; padding is masked."""

    RELEASED_LAYERS: tuple[int, ...]
    MODEL: type[PreTrainedModel]

    def __init__(self, config: Mapping[str, Any], text_config: PretrainedConfig) -> None:
        super().__init__(config)
        self.layers = output_layers(config, self.RELEASED_LAYERS)
        total = text_config.num_hidden_layers
        if not self.layers or not 0 <= min(self.layers) <= max(self.layers) <= total:
            raise ValueError(
                f"text_encoder/config.json: output_layers {list(self.layers)!r} must lie between 0 "
                f"and num_hidden_layers {total!r}: set {OWN_KEY}.output_layers to layers it has"
            )
        depth = max(self.layers)
        values = {k: v for k, v in text_config.to_dict().items() if k != "layer_types"}
        values["num_hidden_layers"] = depth
        self.model = self.MODEL(type(text_config).from_dict(values))
        if depth < total:
            # only the last of all hidden states is normed; transformers norms the last it has
            self.model.norm = nn.Identity()

    def own_name(self, key: str) -> str | None:
        """Leave out what follows the last hidden state taken."""
        if key == "lm_head.weight":
            return None
        if key == f"{PREFIX}norm.weight" and isinstance(self.model.norm, nn.Identity):
            return None
        number = key.removeprefix(f"{PREFIX}layers.").split(".")[0]
        is_later = number.isdecimal() and int(number) >= max(self.layers)
        return None if is_later else key

    def compute_tables(self) -> None:
        """Compute the rotary frequencies."""
        self.model.rotary_emb = type(self.model.rotary_emb)(self.model.config)

    @torch.no_grad()
    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids and mask (B, L) as context (B, L, layers * width), layer after layer."""
        output = self.model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
        )
        states = [output.hidden_states[layer] for layer in self.layers]
        return {"context": torch.cat(states, dim=-1)}


def output_layers(config: Mapping[str, Any], released: tuple[int, ...]) -> tuple[int, ...]:
    """Give the hidden states that a text encoder's config.json says to take."""
    return tuple(config.get(OWN_KEY, {}).get("output_layers", released))
