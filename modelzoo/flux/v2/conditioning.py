"""FLUX.2 with pictures to edit: as further tokens, or as further channels of the target's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modelzoo.flux.components import editing
from modelzoo.flux.v2.model import Flux2, cells
from modelzoo.flux.v2.positions import REFERENCE_STEP


def prepare_kontext_conditioning(
    reference_images: Tensor | Sequence[Tensor],
    vae: editing.PictureEncoder,
    device: torch.device,
    dtype: torch.dtype,
    time_offset: float = REFERENCE_STEP,
) -> tuple[Tensor, Tensor]:
    """Encode reference pictures as tokens beside the target's.

    Args:
        reference_images: (B, 3, H, W) in [-1, 1], sides multiples of 16; or several of them, whose
            sizes may differ.
        vae: FLUX.2's autoencoder, on `device`.
        device: Of the result.
        dtype: Of the tokens.
        time_offset: From one picture to the next along t; the target has 0. The released models
            learned 10, 20, ...

    Returns:
        `img_cond_seq` (B, R, 128) and `img_cond_seq_ids` (B, R, 4), columns t, h, w, l.
    """
    return editing.kontext_conditioning(
        reference_images, vae, device, dtype, time_offset, cells, patch=1
    )


def prepare_fill_conditioning(
    reference_image: Tensor,
    mask: Tensor,
    vae: editing.PictureEncoder,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Encode what a FLUX.2 made for Fill sees beside the noise: picture and mask as channels.

    Args:
        reference_image: (B, 3, H, W) in [-1, 1], sides multiples of 16.
        mask: (B, 1, H, W), 1 where it is to be painted, 0 where the picture stays.
        vae: FLUX.2's autoencoder, on `device`.
        device: Of the result.
        dtype: Of the result.

    Returns:
        `img_cond` (B, N, 128 + 256): the latents of the picture without what is painted, and the
        16 x 16 mask pixels of each token.

    Raises:
        ValueError: The mask has another size or other values.
    """
    return editing.fill_conditioning(reference_image, mask, vae, device, dtype, cells)


def widen_for_fill(denoiser: Flux2, spatial_factor: int) -> Flux2:
    """Make a Fill model of a released one, none of which has channels for it.

    The new columns of `x_embedder` are zero, so that it predicts exactly what the base predicts,
    whatever the picture and mask. The base is not changed; all other weights are shared with it.

    Args:
        denoiser: Without channels for Fill.
        spatial_factor: Pixels along a side of a token, the autoencoder's `spatial_factor`.

    Raises:
        ValueError: The denoiser has such channels already.
    """
    return editing.widened_for_fill(denoiser, spatial_factor)


def widen_for_control(denoiser: Flux2) -> Flux2:
    """Make a denoiser that sees a picture to follow beside the noise, token by token.

    Its latents go where those of Fill go: `Flux2Conditioning.fill`, or `img_cond` as tokens. The
    new columns of `x_embedder` are zero, so that it predicts exactly what the base predicts,
    whatever the picture; trained with a LoRA on the rest they are a Control-LoRA.

    Args:
        denoiser: Without further channels. It is not changed; all other weights are shared with it.

    Raises:
        ValueError: The denoiser has further channels already.
    """
    return editing.widened_for_control(denoiser)
