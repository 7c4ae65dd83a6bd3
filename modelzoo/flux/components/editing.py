"""Pictures to edit, from pixels to what FLUX's transformers take: tokens, or channels of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from modelzoo.denoiser import Denoiser
from modelzoo.flux.components.conditions import Tokens, fill_condition, reference_tokens

D = TypeVar("D", bound=Denoiser)


class PictureEncoder(Protocol):
    """What is needed of an autoencoder, of which `modelzoo.autoencoders` has two."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """List the weights."""
        ...

    def encode_rows(self, pixels: Tensor) -> dict[str, Tensor]:
        """Encode pictures (B, 3, H, W) in [-1, 1] as their posterior."""
        ...

    def latents(self, rows: dict[str, Tensor]) -> Tensor:
        """Give the mean (B, C, h, w) of a posterior, normalised."""
        ...


def kontext_conditioning(
    reference_images: Tensor | Sequence[Tensor],
    vae: PictureEncoder,
    device: torch.device,
    dtype: torch.dtype,
    time_offset: float,
    tokens: Tokens,
    patch: int,
) -> tuple[Tensor, Tensor]:
    """Encode references as tokens (B, R, D) of `dtype` and their positions (B, R, 4).

    `tokens` packs latents, `patch` cells of which make a token's side. Picture i of a sequence
    stands at t = time_offset * (i + 1), in rows and columns of its own.
    """
    images = [reference_images] if isinstance(reference_images, Tensor) else reference_images
    if not images:
        raise ValueError("FLUX: no reference image was given: give one or several (B, 3, H, W)")
    latents = [_latents(image, vae, device) for image in images]
    sequence, positions = reference_tokens(latents, time_offset, tokens, patch, dtype)
    return sequence, positions.expand(len(sequence), -1, -1)


def fill_conditioning(
    reference_image: Tensor,
    mask: Tensor,
    vae: PictureEncoder,
    device: torch.device,
    dtype: torch.dtype,
    tokens: Tokens,
) -> Tensor:
    """Encode what is kept of a picture, and where it is painted, as channels (B, N, D) of tokens.

    Raises:
        ValueError: See `fill_channels`.
    """
    return tokens(fill_channels(reference_image, mask, vae, device)).to(dtype)


def fill_channels(
    picture: Tensor, mask: Tensor, vae: PictureEncoder, device: torch.device
) -> Tensor:
    """Encode what is kept of a picture, and where it is painted, as channels (B, C', h, w).

    Args:
        picture: (B, 3, H, W) in [-1, 1].
        mask: (B, 1, H, W), 1 where it is to be painted: there the network sees grey, 0.
        vae: On `device`.
        device: Of the result.

    Raises:
        ValueError: The mask is not one channel of the picture's size with values 0 and 1.
    """
    batch, _, height, width = picture.shape
    if mask.shape != (batch, 1, height, width):
        raise ValueError(
            f"FLUX Fill: a mask of {list(mask.shape)!r} was given for pictures of "
            f"{list(picture.shape)!r}: give {[batch, 1, height, width]!r}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"FLUX Fill: the mask has values from {mask.min().item():g} to {mask.max().item():g}, "
            "others than 0 (keep) and 1 (paint) among them: threshold it"
        )
    return kept_channels(picture, mask, vae, device)


def kept_channels(
    picture: Tensor, mask: Tensor, vae: PictureEncoder, device: torch.device
) -> Tensor:
    """Do what `fill_channels` does, of a mask that is known to be one: its values stay unseen."""
    mask = mask.to(device, picture.dtype)
    return fill_condition(_latents(picture.to(device) * (1 - mask), vae, device), mask)


def widened(embedder: nn.Module, columns: int) -> nn.Linear:
    """Give a linear layer `columns` more inputs, whose weights are zero: they change nothing."""
    assert isinstance(embedder, nn.Linear)
    weight, bias = embedder.weight, embedder.bias
    wide = nn.Linear(
        embedder.in_features + columns,
        embedder.out_features,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : embedder.in_features].copy_(weight)
        if bias is not None:
            wide.bias.copy_(bias)
    return wide


def fill_columns(denoiser: Denoiser, spatial_factor: int) -> int:
    """Count what a token of a Fill model has beside the noise: a picture's latents, mask pixels.

    Of FLUX.1 these are 64 + 256, as released; of FLUX.2 128 + 256.

    Args:
        denoiser: A Fill model or its base.
        spatial_factor: Pixels along a side of a latent cell.
    """
    config = denoiser.config
    return (config.out_channels or config.in_channels) + (denoiser.patch * spatial_factor) ** 2


def widened_for_fill(denoiser: D, spatial_factor: int) -> D:
    """Make a Fill model of a base, which predicts exactly what the base does, whatever is filled.

    Raises:
        ValueError: The denoiser has further channels already.
    """
    return with_further_channels(denoiser, fill_columns(denoiser, spatial_factor))


def widened_for_control(denoiser: D) -> D:
    """Make a denoiser of a base that sees the latents of a picture to follow beside the noise.

    It predicts exactly what the base does, whatever the picture.

    Raises:
        ValueError: The denoiser has further channels already.
    """
    return with_further_channels(denoiser, denoiser.config.in_channels)


def with_further_channels(denoiser: D, columns: int) -> D:
    """Give a denoiser whose image tokens have `columns` more channels, which at first say nothing.

    All weights but those of `x_embedder` are shared with the one that is given, which stays as it
    is.

    Raises:
        ValueError: The denoiser has further channels already.
    """
    config, base, kind = denoiser.config, denoiser.network, type(denoiser)
    if config.fill_channels:
        raise ValueError(
            f"FLUX: the model already takes {config.fill_channels} channels beside the noisy ones: "
            "use it as it is, or give its base"
        )
    channels = config.in_channels
    with torch.device("meta"):
        network = kind.NETWORK(
            replace(config, in_channels=channels + columns, out_channels=channels)
        )
    for name, child in base.named_children():
        setattr(network, name, child)
    network.x_embedder = widened(base.get_submodule("x_embedder"), columns)
    return kind(network)


def _latents(pixels: Tensor, vae: PictureEncoder, device: torch.device) -> Tensor:
    """Encode in the autoencoder's own dtype."""
    dtype = next(vae.parameters()).dtype
    return vae.latents(vae.encode_rows(pixels.to(device, dtype)))
