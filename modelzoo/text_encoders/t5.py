"""T5's encoder: the last hidden state of each token, padding attended to like text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from modelzoo.text_encoders.text_encoder import PartEncoder

EMBEDDING = "encoder.embed_tokens.weight"  # the same tensor as `shared.weight`
UNUSED = ("decoder.", "lm_head.")  # of files that hold the whole T5


class T5TextEncoder(PartEncoder):
    """Run T5's encoder; no prompt is masked, as FLUX.1 and SD3 were trained (sections 4.3, 6.3)."""

    CONVENTION = "t5-last-unmasked-1"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.encoder = T5EncoderModel(T5Config.from_dict(dict(config))).encoder
        self.layers = (config["num_layers"],)

    def own_name(self, key: str) -> str | None:
        """Take the embedding under either of its names, and no decoder."""
        if key == "shared.weight":
            return EMBEDDING
        return None if key.startswith(UNUSED) else key

    def cast(self, dtype: torch.dtype) -> None:
        """Change the dtype, but keep the products that overflow float16 in float32."""
        self.to(dtype)
        if dtype == torch.float16:
            for name, module in self.encoder.named_modules():
                if name.endswith(".wo"):
                    module.float()

    @torch.no_grad()
    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids (B, L) as context (B, L, D)."""
        return {"context": self.encoder(input_ids=ids).last_hidden_state}
