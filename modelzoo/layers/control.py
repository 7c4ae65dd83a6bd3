"""How the residuals of a ControlNet (Zhang et al. 2023) enter a network of blocks over tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

Residuals = Sequence[Tensor]  # of a ControlNet's blocks, first to last


def spread(
    residuals: Residuals | None, num_blocks: int, num_tokens: int, name: str
) -> list[Tensor | None]:
    """Give each of `num_blocks` blocks its residual (B, N, D), or None where there is no control.

    Where a ControlNet has fewer blocks, one residual serves several neighbours, all but the last
    equally many, as in diffusers.

    Raises:
        ValueError: There are more residuals than blocks, or they are not of `num_tokens` tokens.
    """
    if not residuals:
        return [None] * num_blocks
    check_residuals(residuals, num_blocks, num_tokens, name)
    interval = interval_of(num_blocks, len(residuals))
    return [residuals[index // interval] for index in range(num_blocks)]


def interval_of(num_blocks: int, num_residuals: int) -> int:
    """Count the neighbouring blocks that one residual serves."""
    return -(-num_blocks // num_residuals)


def is_used_up(num_residuals: int, num_blocks: int) -> bool:
    """Tell whether every residual serves a block: of 4 residuals for 5 blocks the last does not."""
    if not num_residuals:
        return True
    return (num_blocks - 1) // interval_of(num_blocks, num_residuals) == num_residuals - 1


def most_used_up(num_blocks: int, at_most: int) -> int:
    """Give the largest number of residuals up to `at_most` that all serve a block."""
    numbers = range(min(num_blocks, at_most), -1, -1)
    return next(number for number in numbers if is_used_up(number, num_blocks))


def check_residuals(residuals: Residuals, num_blocks: int, num_tokens: int, name: str) -> None:
    """Refuse residuals of another network or of another picture.

    Raises:
        ValueError: There are more residuals than blocks, or they are not of `num_tokens` tokens.
    """
    if len(residuals) > num_blocks:
        raise ValueError(
            f"{name}: {len(residuals)} residuals were given to {num_blocks} blocks: give those of "
            "a ControlNet with at most as many blocks as its base"
        )
    if wrong := sorted({each.shape[1] for each in residuals} - {num_tokens}):
        raise ValueError(
            f"{name}: residuals of {wrong!r} tokens were given to a picture of {num_tokens}: give "
            "the ControlNet the same noisy picture"
        )


def add_residual(tokens: Tensor, residual: Tensor | None, start: int = 0) -> Tensor:
    """Add a residual (B, N, D) to N of the tokens (B, M, D), from `start` on; None adds nothing.

    The tokens keep their dtype: in mixed precision a network's outputs, as these are, are float32.
    """
    if residual is None:
        return tokens
    residual = residual.to(tokens.dtype)
    behind = tokens.shape[1] - start - residual.shape[1]
    return tokens + (F.pad(residual, (0, 0, start, behind)) if start or behind else residual)


def connected(read: Tensor, unread: Tensor) -> Tensor:
    """Give `read` unchanged, and to the weights behind `unread` (B, L, D) a gradient of zero.

    Nothing reads the text that the last block of a ControlNet writes, but training on several
    devices waits for the gradient of every weight.
    """
    return read + unread[:, :0].sum()


def project(
    projections: Iterable[nn.Module], streams: Sequence[Tensor], scale: float
) -> tuple[Tensor, ...]:
    """Make the residuals of what a ControlNet's blocks gave, each by a projection of its own."""
    pairs = zip(projections, streams, strict=True)
    return tuple(projection(stream) * scale for projection, stream in pairs)
