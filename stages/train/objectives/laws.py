"""The law of t that the section `training.objective` describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from modelzoo.process import timesteps
from stages.params.objective import Objective

# by `timestep_sampling`: uniform numbers (B,) in [0, 1) to times (B,), before any shift
LAWS: Mapping[str, Callable[[Tensor, Objective], Tensor]] = {
    "uniform": lambda uniform, settings: timesteps.uniform_t(uniform),
    "logit_normal": lambda uniform, settings: timesteps.logit_normal_t(
        uniform, settings.logit_mean, settings.logit_std
    ),
    "mode": lambda uniform, settings: timesteps.mode_t(uniform, settings.mode_scale),
    "cosmap": lambda uniform, settings: timesteps.cosmap_t(uniform),
    # the logistic of a scaled normal number, as kohya's scripts and ai-toolkit call it
    "sigmoid": lambda uniform, settings: timesteps.logit_normal_t(uniform, 0.0, settings.logit_std),
}
# by `resolution_shift`: image tokens to the factor of the shift
RESOLUTION_SHIFTS: Mapping[str, Callable[[int, Objective], float]] = {
    "flux": lambda num_tokens, settings: timesteps.flux1_shift(
        num_tokens,
        (settings.base_tokens, settings.base_shift),
        (settings.max_tokens, settings.max_shift),
    ),
    "flux2": lambda num_tokens, settings: timesteps.flux2_shift(num_tokens),
    "sd3": lambda num_tokens, settings: timesteps.square_root_shift(
        num_tokens, settings.base_tokens
    ),
}


def shift_of(settings: Objective, num_tokens: int) -> float:
    """Return the shift of t for pictures of so many image tokens; two shifts multiply."""
    if settings.resolution_shift is None:
        return settings.shift
    return settings.shift * RESOLUTION_SHIFTS[settings.resolution_shift](num_tokens, settings)
