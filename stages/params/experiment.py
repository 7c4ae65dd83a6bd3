"""Section `experiment`: what the run is called, where its export goes, its seed."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.schema import number


@dataclass(frozen=True)
class Experiment:
    """The run as a whole."""

    name: str  # names the run in MLflow and the export's folder
    output_dir: str = "outputs/${experiment.name}"  # folder that export copies its files to
    seed: int = number(42, at_least=0, below=2**63)  # of everything random in base and training
