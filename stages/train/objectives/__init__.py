"""Objectives by their name in `training.objective.type`: what noise is, and what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stages.params import objective
from stages.train.objectives.ddpm import Ddpm, ddpm_objective
from stages.train.objectives.flow_matching import FlowMatching
from stages.train.objectives.objective import Objective

__all__ = ["OBJECTIVES", "Ddpm", "FlowMatching", "Objective"]

Scheduler = Mapping[str, Any]  # content of a scheduler_config.json


def flow_matching_objective(settings: objective.Objective, scheduler: Scheduler) -> Objective:
    """Make the objective of models that predict a velocity."""
    return FlowMatching(settings)


# from the section `training.objective` and the base's scheduler_config.json
OBJECTIVES: Mapping[str, Callable[[objective.Objective, Scheduler], Objective]] = {
    "flow_matching": flow_matching_objective,
    "ddpm": ddpm_objective,
}
