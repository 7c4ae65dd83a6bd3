"""How far a prediction is from its target: the mean over all numbers of an item, (B,)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stages.params.objective import Objective


def item_errors(prediction: Tensor, target: Tensor, settings: Objective) -> Tensor:
    """Return the error (B,) of predictions (B, C, H, W) by the law that `loss` names.

    "mse" is e^2. "huber" is e^2 / 2 up to an error of delta and delta (|e| - delta / 2) above it
    (Huber 1964), so that what cannot be learned pulls no harder the further off it is; "smooth_l1"
    is that over delta, whose slope far off is 1 whatever delta.
    """
    if settings.loss == "huber":
        errors = F.huber_loss(prediction, target, reduction="none", delta=settings.huber_delta)
    elif settings.loss == "smooth_l1":
        errors = F.smooth_l1_loss(prediction, target, reduction="none", beta=settings.huber_delta)
    else:
        errors = (prediction - target).square()
    return errors.flatten(1).mean(1)
