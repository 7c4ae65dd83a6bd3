"""Sections of the training methods: `training.lora`, `dreambooth` and `controlnet`."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.params.schema import number


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters."""

    rank: int = number(32, at_least=1)  # inner width
    alpha: float = number(32.0, above=0)  # the update is scaled by alpha / rank
    dropout: float = number(0.0, at_least=0, below=1)  # of the adapter's input
    target_modules: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"]
    )  # ends of the module names that get one
    train_text_encoder: bool = False  # adapters in the text encoders too


@dataclass(frozen=True)
class Dreambooth:
    """Personalisation with prior preservation."""

    instance_prompt: str  # caption of the subject's pictures
    class_prompt: str  # caption of its class
    num_class_images: int = number(200, at_least=0)  # pictures of the class
    prior_preservation_weight: float = number(1.0, at_least=0)  # of the class loss


@dataclass(frozen=True)
class Controlnet:
    """Control by a condition picture."""

    conditioning_type: str = "canny"  # what the condition picture is
    conditioning_scale: float = number(1.0, at_least=0)  # strength of the control
