"""Optimizers: by name (`algorithms`), in groups of one rate, rounded, and as a checkpoint."""

from stages.train.optimizers.algorithms import OPTIMIZERS
from stages.train.optimizers.create import create_optimizer
from stages.train.optimizers.sizes import slot_bytes

__all__ = ["OPTIMIZERS", "create_optimizer", "slot_bytes"]
