"""Whether a block's activations are kept for the backward pass or computed again in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Run = Callable[..., Any]  # calls a block with its inputs, now or, checkpointed, twice


def runner(network: nn.Module) -> Run:
    """Choose how the blocks of a network run, which its `gradient_checkpointing` says."""
    return rerun if network.gradient_checkpointing and torch.is_grad_enabled() else call


def call(block: nn.Module, *inputs: object) -> Any:
    """Run a block and keep its activations for the backward pass."""
    return block(*inputs)


def rerun(block: nn.Module, *inputs: object) -> Any:
    """Run a block now and again in the backward pass, keeping only its inputs."""
    return checkpoint(block, *inputs, use_reentrant=False)
