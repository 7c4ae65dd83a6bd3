"""How the residuals of a ControlNet (Zhang et al. 2023) enter a network of blocks over tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

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
    interval = -(-num_blocks // len(residuals))
    return [residuals[index // interval] for index in range(num_blocks)]


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
    """Add a residual (B, N, D) to N of the tokens (B, M, D), from `start` on; None adds nothing."""
    if residual is None:
        return tokens
    behind = tokens.shape[1] - start - residual.shape[1]
    return tokens + (F.pad(residual, (0, 0, start, behind)) if start or behind else residual)


def connected(read: Tensor, unread: Tensor) -> Tensor:
    """Give `read` unchanged, and to the weights behind `unread` (B, L, D) a gradient of zero.

    Nothing reads the text that the last block of a ControlNet writes, but training on several
    devices waits for the gradient of every weight.
    """
    return read + unread[:, :0].sum()
