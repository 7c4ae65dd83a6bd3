"""Section `training.objective`: how noise is added, what is predicted, and how errors count."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.schema import choice, number


@dataclass(frozen=True)
class Objective:
    """How noise is added and what is predicted."""

    type: str = choice("flow_matching", "flow_matching", "ddpm")  # kind of noise process
    timestep_sampling: str = choice("logit_normal", "uniform", "logit_normal")  # law of t
    shift: float = number(1.0, above=0)  # of t; above 1 trains more near pure noise
    guidance: float = number(1.0, at_least=0)  # told to models that embed it; 1 is none
