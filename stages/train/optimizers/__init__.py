"""Optimizers: by name (`algorithms`), in groups of one rate, rounded, and as a checkpoint."""

from stages.train.optimizers.algorithms import OPTIMIZERS
from stages.train.optimizers.create import create_optimizer

__all__ = ["OPTIMIZERS", "create_optimizer"]
