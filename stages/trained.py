"""Load what training wrote, whatever method wrote it, into the base it was trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from modelzoo.adapters.files import is_adapter, load_adapters
from modelzoo.denoiser import Denoiser, load_denoiser
from modelzoo.families import family
from stages.base_record import Record


def load_trained(family_name: str, trained: Path, base: Record, dtype: torch.dtype) -> Denoiser:
    """Return the trained denoiser, every key used.

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
    if not is_adapter(trained):
        return load_denoiser(kind.denoiser, trained, dtype)
    denoiser = load_denoiser(kind.denoiser, base.folders[kind.folder], dtype)
    load_adapters(denoiser.network, trained)
    return denoiser
