"""FLUX.1 Kontext and Fill: pictures as further tokens, or as further channels of the target's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelzoo.flux.components import editing
from modelzoo.flux.v1.latents import PATCH, REFERENCE_STEP, pack
from modelzoo.flux.v1.model import Flux1


def prepare_kontext_conditioning(
    reference_images: Tensor | Sequence[Tensor],
    vae: editing.PictureEncoder,
    device: torch.device,
    dtype: torch.dtype,
    time_offset: float = REFERENCE_STEP,
) -> tuple[Tensor, Tensor]:
    """Encode reference pictures as tokens beside the target's, as FLUX.1 Kontext was released.

    Args:
        reference_images: (B, 3, H, W) in [-1, 1], sides multiples of 16; or several of them, whose
            sizes may differ.
        vae: FLUX.1's autoencoder, on `device`.
        device: Of the result.
        dtype: Of the tokens.
        time_offset: From one picture to the next along t; the target has 0.

    Returns:
        `img_cond_seq` (B, R, 64) and `img_cond_seq_ids` (B, R, 4), columns t, h, w, l.
    """
    return editing.kontext_conditioning(
        reference_images, vae, device, dtype, time_offset, pack, PATCH
    )


def prepare_fill_conditioning(
    reference_image: Tensor,
    mask: Tensor,
    vae: editing.PictureEncoder,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Encode what FLUX.1 Fill sees beside the noise: 64 channels of picture and 256 of mask.

    Args:
        reference_image: (B, 3, H, W) in [-1, 1], sides multiples of 16.
        mask: (B, 1, H, W), 1 where it is to be painted, 0 where the picture stays.
        vae: FLUX.1's autoencoder, on `device`.
        device: Of the result.
        dtype: Of the result.

    Returns:
        `img_cond` (B, N, 320).

    Raises:
        ValueError: The mask has another size or other values.
    """
    return editing.fill_conditioning(reference_image, mask, vae, device, dtype, pack)


def widen_for_control(denoiser: Flux1) -> Flux1:
    """Make a denoiser that sees a picture to follow beside the noise, as FLUX.1 Canny and Depth do.

    Its latents go where those of Fill go: `Flux1Conditioning.fill`, or `img_cond` as packed tokens.
    The new columns of `x_embedder` are zero, so that it predicts exactly what the base predicts,
    whatever the picture; trained with a LoRA on the rest they are a Control-LoRA.

    Args:
        denoiser: Without further channels. It is not changed; all other weights are shared with it.

    Raises:
        ValueError: The denoiser has further channels already.
    """
    return editing.widened_for_control(denoiser)
