"""Section `tracking`: where runs are written down."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.schema import number


@dataclass(frozen=True)
class Samples:
    """Grids of pictures while training, always of the same noise."""

    every: int = number(500, at_least=1)  # optimizer steps
    prompts: int = number(4, at_least=1)  # the first of sample.prompts, at most
    steps: int | None = number(None, at_least=1)  # of the sampler; null: as sample.steps


@dataclass(frozen=True)
class Tracking:
    """MLflow, and what is looked at on the way; nothing here changes a result."""

    mlflow: bool = True  # one run a training
    uri: str = "sqlite:///mlflow.db"  # of the tracking store; relative to the main repository
    experiment: str | None = None  # MLflow's experiment; null: experiment.name
    system_metrics: bool = True  # CPU, memory and GPU over time
    samples: Samples | None = None  # null: no pictures are drawn while training
