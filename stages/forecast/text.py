"""Text encoders that learn with the denoiser, without values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from modelzoo.text_encoders import TEXT_PARTS
from stages.forecast.base import text_configs
from stages.needs import Asked
from stages.train.live_text import let_learn, section_of
from stages.train.model import Model
from stages.train.stage import Params

if TYPE_CHECKING:
    from modelzoo.text_encoders.live import LiveText


def bare_text(params: Params, asked: Asked, model: Model) -> LiveText | None:
    """Build the text encoders that learn as `create_state` does; None where none does.

    Raises:
        ValueError: A pattern fits no layer.
    """
    if (lora := section_of(params.training)) is None:
        return None
    from modelzoo.text_encoders.family import ENCODERS
    from modelzoo.text_encoders.live import LiveText

    dtype: torch.dtype = getattr(torch, params.dtype)
    parts, configs = {}, text_configs(asked, params.family)
    for part in TEXT_PARTS[params.family]:
        if part.learns:
            encoder = ENCODERS[params.family][part.kinds[0]](configs[part.encoder])
            encoder.cast(dtype)
            encoder.compute_tables()
            parts[part.encoder] = encoder.requires_grad_(False)
    text = LiveText(params.family, parts, asked.lengths, None)
    let_learn(text, model, lora, params.family, params.seed)
    text.train().checkpoint_layers(params.gradient_checkpointing)
    return text
