"""How well a Fill model keeps what it should, beside what its autoencoder alone would lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stages.generation import Generator, Picture, Prompt, Sampling, generate, to_pictures
from stages.prompt_pictures import open_mask, open_picture

NUM_PAINTED = 32  # prompts of which what the model paints alone is compared


@torch.inference_mode()
def kept_errors(
    generator: Generator, prompts: Sequence[Prompt], pictures: Sequence[Picture], folder: Path
) -> dict[str, float]:
    """Compare what is kept of the pictures to be filled with what was given.

    Args:
        generator: What made the pictures.
        prompts: Those with a mask are compared.
        pictures: What was made of each prompt.
        folder: Where the pictures that prompts name are.

    Returns:
        "kept_error" and, of the autoencoder's own copy, "kept_error_vae": mean absolute
        differences of kept pixels in [0, 1]; nothing if no prompt has a mask.
    """
    made, copied = [], []
    for prompt, picture in zip(prompts, pictures, strict=True):
        if prompt.mask is None:
            continue
        kept = open_mask(folder / prompt.mask, prompt)[0].numpy() == 0
        if not kept.any():
            continue
        given = open_picture(folder / prompt.references[0], prompt)[None]
        (copy,) = to_pictures(generator.decode(_latents(generator, given)))
        (original,) = to_pictures(given)
        made.append(_difference(picture, original)[kept].mean())
        copied.append(_difference(copy, original)[kept].mean())
    if not made:
        return {}
    return {"kept_error": float(np.mean(made)), "kept_error_vae": float(np.mean(copied))}


def painted_errors(
    generator: Generator, prompts: Sequence[Prompt], sampling: Sampling, folder: Path
) -> dict[str, float]:
    """Compare what the model itself paints where it should keep, nothing being put back.

    Returns:
        "kept_error_painted", of the first prompts with a mask; nothing if there is none, or if
        the pictures are so anyway.
    """
    masked = [prompt for prompt in prompts if prompt.mask is not None][:NUM_PAINTED]
    if not masked or sampling.keep_unmasked == "none":
        return {}
    alone = replace(sampling, keep_unmasked="none")
    errors = kept_errors(
        generator, masked, generate(generator, masked, alone, "paint all", folder), folder
    )
    return {"kept_error_painted": errors["kept_error"]} if errors else {}


def _latents(generator: Generator, pixels: torch.Tensor) -> torch.Tensor:
    autoencoder = generator.autoencoder
    rows = autoencoder.encode_rows(pixels.to(generator.device, generator.dtype))
    return autoencoder.latents(rows)


def _difference(one: Picture, other: Picture) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.abs(one.astype(np.float64) - other.astype(np.float64)) / 255
