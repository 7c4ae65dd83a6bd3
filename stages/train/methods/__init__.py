"""Training methods by their name in `training.method`; a new one is a file here and a line.

Each is made of the objective, the section `training` and `experiment.seed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stages.params.training import Training
from stages.train.method import Method
from stages.train.methods.control_lora import ControlLora
from stages.train.methods.controlnet import Controlnet
from stages.train.methods.dreambooth import Dreambooth
from stages.train.methods.full_finetune import FullFinetune
from stages.train.methods.lora import Lora
from stages.train.objectives import Objective


def of_control(objective: Objective, settings: Training, seed: int) -> Method:
    """Make the kind of control that `training.controlnet` names."""
    if settings.is_control_lora:
        return ControlLora(objective, settings, seed)
    return Controlnet(objective, settings, seed)


METHODS: Mapping[str, Callable[[Objective, Training, int], Method]] = {
    "full_finetune": FullFinetune,
    "lora": Lora,
    "dreambooth": Dreambooth,
    "controlnet": of_control,
}
