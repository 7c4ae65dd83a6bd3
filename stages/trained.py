"""Load what training wrote, whatever method wrote it, into the base it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from modelzoo.adapters.files import is_adapter, load_adapters
from modelzoo.adapters.text import load_text_adapters
from modelzoo.checkpoints.folder import read_config
from modelzoo.control_lora import is_control_lora, load_control_lora
from modelzoo.controlnets import load_controlnet_of
from modelzoo.denoiser import Denoiser, load_denoiser
from modelzoo.families import Family, family
from modelzoo.text_encoders.text_encoder import TextEncoder
from stages.base_record import Record


@dataclass(frozen=True)
class Trained:
    """What makes predictions after a training.

    Attributes:
        denoiser: trained, or the base with trained adapters, or the untouched base.
        controlnet: trained beside that base; None where another method trained.
        sees_condition: whether the denoiser itself sees a picture to follow: a Control-LoRA.
    """

    denoiser: Denoiser
    controlnet: nn.Module | None = None
    sees_condition: bool = False


def load_trained(family_name: str, trained: Path, base: Record, dtype: torch.dtype) -> Trained:
    """Return the trained denoiser, or the base and its trained ControlNet, every key used.

    Args:
        family_name: `model.type`.
        trained: the folder that a method's `save` wrote.
        base: the record of the untrained denoiser, which what was added to it still needs.
        dtype: of the weights.

    Raises:
        FileNotFoundError: a folder is not there or not complete.
        ValueError: the weights do not fit.
    """
    kind = family(family_name)
    adds = is_adapter(trained) or is_controlnet(kind, trained)
    denoiser = load_denoiser(kind.denoiser, base.folders[kind.folder] if adds else trained, dtype)
    if is_control_lora(trained):
        return Trained(load_control_lora(denoiser, trained), sees_condition=True)
    if is_adapter(trained):
        load_adapters(denoiser.network, trained)
    if is_controlnet(kind, trained):
        return Trained(denoiser, load_controlnet_of(denoiser, trained, dtype))
    return Trained(denoiser)


def add_trained_text(family_name: str, text_encoder: TextEncoder, trained: Path) -> None:
    """Add to the base's text encoders the adapters that were trained in them, if any were.

    Raises:
        FileNotFoundError: A folder is not complete.
        ValueError: The adapters are of other text encoders.
    """
    from modelzoo.text_encoders.live import learning_parts  # transformers: seconds

    if is_adapter(trained):
        load_text_adapters(learning_parts(family_name, text_encoder), trained)
        text_encoder.eval().requires_grad_(False)


def is_controlnet(kind: Family, folder: Path) -> bool:
    """Tell whether a folder holds a ControlNet, of this family or of another.

    Raises:
        FileNotFoundError: The folder is not there.
    """
    if is_adapter(folder):
        return False
    name = read_config(folder).get("_class_name", "")
    return name != kind.denoiser.NETWORK.__name__ and "ControlNet" in name
