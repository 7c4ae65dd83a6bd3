"""Training methods by their name in `training.method`; a new one is a file here and a line.

Each is made of the objective, the section `training` and `experiment.seed`.
"""

from stages.train.methods.controlnet import Controlnet
from stages.train.methods.full_finetune import FullFinetune

METHODS = {"full_finetune": FullFinetune, "controlnet": Controlnet}
