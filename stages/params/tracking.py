"""Section `tracking`: where runs are written down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tracking:
    """MLflow; nothing here changes a result."""

    mlflow: bool = True  # one run a training
    uri: str = "sqlite:///mlflow.db"  # of the tracking store; relative to the main repository
    experiment: str | None = None  # MLflow's experiment; null: experiment.name
    system_metrics: bool = True  # CPU, memory and GPU over time
