"""Images as conditions: references beside the target's tokens, Fill on top of its channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from modelzoo.flux.components.positions import reference_positions

Tokens = Callable[[Tensor], Tensor]  # latents (B, C, h, w) to tokens (B, N, D)


def input_tokens(
    target: Tensor, img_cond: Tensor | None, img_cond_seq: Tensor | None, in_channels: int
) -> Tensor:
    """Join the noisy tokens of the target (B, N, C) with what else the network looks at.

    Fill's condition img_cond (B, N, C') lies on the channels of the same tokens; references
    img_cond_seq (B, R, in_channels) are tokens of their own, after the target's.

    Raises:
        ValueError: The channels are not those of the network.
    """
    given = target if img_cond is None else torch.cat([target, img_cond], dim=-1)
    for name, tokens in (("hidden_states and img_cond", given), ("img_cond_seq", img_cond_seq)):
        if tokens is not None and tokens.shape[-1] != in_channels:
            raise ValueError(
                f"FLUX transformer: {name} have {tokens.shape[-1]!r} channels, but in_channels is "
                f"{in_channels!r}: a Fill model takes img_cond and no img_cond_seq, others take no "
                "img_cond"
            )
    return given if img_cond_seq is None else torch.cat([given, img_cond_seq], dim=1)


def reference_tokens(
    references: Sequence[Tensor],
    time_offset: float,
    tokens: Tokens,
    patch: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Lay out latents of references as tokens (B, R, D) of `dtype`, with positions (R, 4).

    Args:
        references: (B, C, h, w) each, of any sizes.
        time_offset: Reference i stands at t = time_offset * (i + 1), in rows and columns of its
            own; the target has t 0.
        tokens: Packs latents, `patch` cells of which make a token's side.
        patch: As said.
        dtype: Of the tokens.
    """
    sizes = tuple((each.shape[-2] // patch, each.shape[-1] // patch) for each in references)
    step = int(time_offset) if float(time_offset).is_integer() else time_offset
    positions = reference_positions(sizes, step, references[0].device)
    return torch.cat([tokens(each).to(dtype) for each in references], dim=1), positions


def with_pictures(
    conditioning: Any,
    fill_channels: int,
    references: Sequence[Tensor],
    fill: Tensor | None,
    time_offset: float | None,
) -> Any:
    """Add pictures to the conditioning of a network with `fill_channels` beside the noise.

    Raises:
        ValueError: It is not made for such pictures.
    """
    given = 0 if fill is None else fill.shape[1]
    if bool(given) != bool(fill_channels):
        raise ValueError(
            f"FLUX: {given} channels of what is to be filled were given, but the model has "
            f"{fill_channels} for that: give a picture and its mask to Fill models, and to no other"
        )
    if fill_channels and references:
        raise ValueError(
            "FLUX: references were given to a Fill model, which looks at none: leave them out"
        )
    changes = {} if time_offset is None else {"time_offset": time_offset}
    return conditioning._replace(references=tuple(references), fill=fill, **changes)


def fill_condition(masked: Tensor, mask: Tensor) -> Tensor:
    """Give the channel-wise condition (B, C + f * f, h, w) of Fill.

    Args:
        masked: Latents (B, C, h, w) of the picture whose pixels to be painted are 0.
        mask: (B, 1, f * h, f * w) over pixels, 1 where it is to be painted; the pixels of a cell
            become channels, row by row.
    """
    factor = mask.shape[-1] // masked.shape[-1]
    planes = rearrange(mask, "b 1 (h i) (w j) -> b (i j) h w", i=factor, j=factor)
    return torch.cat([masked, planes.to(masked.dtype)], dim=1)


def embedded_guidance(guidance: float | None, default: float, context: Tensor) -> Tensor:
    """Give the guidance (B,) of a batch with context (B, L, D), for models that embed it."""
    value = default if guidance is None else guidance
    return torch.full((len(context),), value, dtype=torch.float32, device=context.device)


def rows_of(
    rows: Mapping[str, Tensor], names: Sequence[str], dtype: torch.dtype, family: str
) -> list[Tensor]:
    """Take the named rows, in `dtype`.

    Raises:
        ValueError: One is missing.
    """
    if missing := [name for name in names if name not in rows]:
        raise ValueError(
            f"{family}: the rows have {sorted(rows)!r}, but {missing!r} are missing; encode the "
            "captions for this family"
        )
    return [rows[name].to(dtype) for name in names]
