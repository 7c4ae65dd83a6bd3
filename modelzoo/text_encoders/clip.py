"""CLIP's text half: the last hidden state but one of each token, and one vector for the prompt.

Its weights are frozen when they are loaded, so that gradients are kept for adapters alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from modelzoo.checkpoints.stream import TensorSource
from modelzoo.text_encoders.text_encoder import PartEncoder

PREFIX = "text_model."
PROJECTION = "text_projection.weight"
TABLE = f"{PREFIX}embeddings.position_ids"  # in files of transformers before 4.31


class ClipTextEncoder(PartEncoder):
    """What the ways to use CLIP have in common; prompts are causal and padding is not masked.

    The pooled vector is the final-normed state at the first end mark. Released configurations say
    `eos_token_id: 2`, by which transformers means the largest id of a prompt (its issue 24773).
    """

    def __init__(self, config: Mapping[str, Any], depth: int) -> None:
        super().__init__(config)
        self.text_model = CLIPTextModel(
            CLIPTextConfig.from_dict({**config, "num_hidden_layers": depth})
        )
        self.layers = (config["num_hidden_layers"] - 1,)

    def own_name(self, key: str) -> str | None:
        """Accept names with and without `text_model.`, as transformers 4 and 5 write them."""
        if not key.startswith((PREFIX, "text_projection.")):
            key = f"{PREFIX}{key}"
        return None if key == TABLE else key

    def compute_tables(self) -> None:
        """Number the positions."""
        embeddings = self.text_model.embeddings
        positions = torch.arange(embeddings.position_embedding.num_embeddings)
        embeddings.register_buffer("position_ids", positions.expand(1, -1), persistent=False)


class ClipHidden(ClipTextEncoder):
    """CLIP-L in SDXL: hidden states only, so neither the last layer nor what follows it."""

    CONVENTION = "clip-hidden-1"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, depth=config["num_hidden_layers"] - 1)
        # the last hidden state but one is not normed
        self.text_model.final_layer_norm = nn.Identity()  # type: ignore[assignment]
        self._unused = (
            f"{PREFIX}encoder.layers.{config['num_hidden_layers'] - 1}.",
            f"{PREFIX}final_layer_norm.",
            PROJECTION,
        )

    def own_name(self, key: str) -> str | None:
        """Leave out what follows the last hidden state but one."""
        name = super().own_name(key)
        return None if name and name.startswith(self._unused) else name

    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids (B, L) as context (B, L, D)."""
        return {"context": self.text_model(input_ids=ids).last_hidden_state}


class ClipPooled(ClipTextEncoder):
    """CLIP-L in FLUX.1: the pooled vector only, not projected."""

    CONVENTION = "clip-pooled-1"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, depth=config["num_hidden_layers"])
        self.layers = (config["num_hidden_layers"],)

    def own_name(self, key: str) -> str | None:
        """Leave out a projection."""
        return None if key == PROJECTION else super().own_name(key)

    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids (B, L) as pooled (B, D)."""
        return {"pooled": self.text_model(input_ids=ids).pooler_output}


class ClipProjected(ClipTextEncoder):
    """CLIP-G in SDXL and SD3: hidden states, and the pooled vector projected."""

    CONVENTION = "clip-hidden-projected-1"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, depth=config["num_hidden_layers"])
        self.text_projection = nn.Linear(
            config["hidden_size"], config["projection_dim"], bias=False
        )

    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Encode ids (B, L) as context (B, L, D) and pooled (B, P)."""
        output = self.text_model(input_ids=ids, output_hidden_states=True)
        pooled = self.text_projection(output.pooler_output)
        return {"context": output.hidden_states[-2], "pooled": pooled}


class ClipOptionallyProjected(ClipProjected):
    """CLIP-L in SD3, whose file `clip_l.safetensors` has no projection and means the identity."""

    def complete(self, own: TensorSource) -> dict[str, Tensor]:
        """Project by the identity where the file has no projection."""
        size = self.text_projection.in_features
        return {} if PROJECTION in own else {PROJECTION: torch.eye(size)}
