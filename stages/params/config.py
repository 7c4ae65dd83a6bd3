"""The whole of params.yaml: every section, in the order in which it is written."""

from __future__ import annotations

from dataclasses import dataclass

from stages.params.data import Data
from stages.params.experiment import Experiment
from stages.params.hardware import Hardware
from stages.params.model import Model
from stages.params.outputs import Evaluate, Export, Sample
from stages.params.tracking import Tracking
from stages.params.training import Training


@dataclass(frozen=True)
class Config:
    """All sections; the names are those of `read.SECTIONS`."""

    experiment: Experiment  # the run as a whole
    model: Model  # the base model
    training: Training  # the training run
    data: Data  # the dataset
    hardware: Hardware  # the machine
    sample: Sample  # the grid of sample pictures
    evaluate: Evaluate  # the metrics
    export: Export  # the files for users
    tracking: Tracking  # where runs are written down
