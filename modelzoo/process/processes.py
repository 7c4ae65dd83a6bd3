"""A model's diffusion process as one object: how its latents are sampled, by any sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from modelzoo.process.ddpm import DdpmSchedule
from modelzoo.process.ddpm_paths import ddim_path, dpmpp_path, euler_path
from modelzoo.process.flow_matching import dynamic_mu, empirical_mu
from modelzoo.process.samplers import (
    SPLITS,
    Level,
    Predict,
    euler,
    first_order,
    second_order,
    shifted_sigmas,
    split_velocity,
    table_sigmas,
)
from modelzoo.process.settings import read_settings

# number of image tokens and of steps to the shift of the times
Shift = Callable[[int, int], float]


class Process(Protocol):
    """What noise is to a model, as far as sampling goes."""

    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        steps: int,
        num_tokens: int,
        shift: float | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        """Turn noise into latents (B, C, H, W).

        Args:
            predict: Takes noisy latents (B, C, H, W), scaled as the network wants them, and t (B,)
                in [0, 1], and gives what the network predicts.
            noise: (B, C, H, W), unit normal.
            steps: How often to predict.
            num_tokens: Image tokens of a picture, which some shifts follow.
            shift: Of the times, instead of the model's own.
            sampler: By name; None: the one that the model was released with.

        Raises:
            ValueError: The process has no such sampler, no shift, or not that many steps.
        """
        ...


@dataclass(frozen=True)
class StaticShift:
    """The same shift for every picture."""

    shift: float = 1.0

    def __call__(self, num_tokens: int, steps: int) -> float:
        """Give the shift."""
        return self.shift


@dataclass(frozen=True)
class DynamicShift:
    """FLUX.1's shift, whose logarithm grows with the picture."""

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096

    def __call__(self, num_tokens: int, steps: int) -> float:
        """Give the shift."""
        base = (self.base_image_seq_len, self.base_shift)
        most = (self.max_image_seq_len, self.max_shift)
        return math.exp(dynamic_mu(num_tokens, base, most))


def empirical_shift(num_tokens: int, steps: int) -> float:
    """Give FLUX.2's shift."""
    return math.exp(empirical_mu(num_tokens, steps))


@dataclass(frozen=True)
class FlowProcess:
    """Rectified flow; the network predicts the velocity."""

    shift: Shift
    spacing: Callable[[int, float], Tensor] = shifted_sigmas  # steps, shift -> times (steps + 1,)

    def sigmas(self, steps: int, num_tokens: int, shift: float | None = None) -> Tensor:
        """Give the times (steps + 1,) from 1 to 0, which are also the noise levels."""
        return self.spacing(steps, self.shift(num_tokens, steps) if shift is None else shift)

    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        steps: int,
        num_tokens: int,
        shift: float | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        """Turn noise into latents, see `Process`."""
        solve = _named(FLOW_SAMPLERS, sampler or "euler", "flow matching")
        return solve(predict, noise, self.sigmas(steps, num_tokens, shift))


def flow_dpmpp_2m(predict: Predict, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Follow the velocity with DPM-Solver++(2M), at signal 1 - sigma and noise sigma."""
    path = [Level(sigma, 1 - sigma, sigma) for sigma in sigmas.tolist()]
    return second_order(predict, split_velocity, noise, path)


FLOW_SAMPLERS: dict[str, Callable[[Predict, Tensor, Tensor], Tensor]] = {
    "euler": euler,
    "dpmpp_2m": flow_dpmpp_2m,
}


@dataclass(frozen=True)
class DdpmProcess:
    """DDPM's process; the network predicts the noise or v, as its schedule says."""

    schedule: DdpmSchedule
    sampler: str = "euler"

    def sample(
        self,
        predict: Predict,
        noise: Tensor,
        steps: int,
        num_tokens: int,
        shift: float | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        """Turn noise into latents, see `Process`; the number of tokens changes nothing."""
        if shift is not None:
            raise ValueError(
                f"sampling: shift {shift!r} was given, but the times of DDPM have none: set null"
            )
        name = sampler or self.sampler
        solve, make_path = _named(DDPM_SAMPLERS, name, "DDPM")
        path = make_path(self.schedule, steps)
        if name == "euler" and self.schedule.timestep_spacing != "leading":
            noise = noise * path[0].noise  # diffusers adds no variance for the data here
        return solve(predict, SPLITS[self.schedule.prediction_type], noise, path)


# the way to step, and the noise levels to stop at
DDPM_SAMPLERS: dict[str, tuple[Callable[..., Tensor], Callable[[DdpmSchedule, int], list[Level]]]]
DDPM_SAMPLERS = {
    "euler": (first_order, euler_path),
    "ddim": (first_order, ddim_path),
    "dpmpp_2m": (second_order, dpmpp_path),
}
# samplers by the class that a scheduler_config.json names
DDPM_CLASSES = {
    "EulerDiscreteScheduler": "euler",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddim",  # its own draws noise at every step; this is its deterministic twin
    "DPMSolverMultistepScheduler": "dpmpp_2m",
}
FLOW_CLASS = "FlowMatchEulerDiscreteScheduler"
FLOW_SUPPORTED = {
    "num_train_timesteps": 1000,
    "invert_sigmas": False,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    "stochastic_sampling": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}


def process_of(config: Mapping[str, Any], model_type: str) -> Process:
    """Give the process of a scheduler_config.json as the pipeline of the model's type uses it.

    FLUX.2's pipeline computes its shift, whatever the file says; those of FLUX space their times
    themselves; for others the scheduler does.

    Raises:
        ValueError: The file names another class, or asks for what is not supported.
    """
    name = config.get("_class_name")
    if name in DDPM_CLASSES:
        return DdpmProcess(DdpmSchedule.from_dict(config), DDPM_CLASSES[name])
    if name != FLOW_CLASS:
        raise ValueError(
            f"scheduler_config.json: class {name!r} is not supported; "
            f"use one of {sorted([*DDPM_CLASSES, FLOW_CLASS])!r}"
        )
    ignored = frozenset({"shift", "use_dynamic_shifting"})
    dynamic = DynamicShift(**read_settings(DynamicShift, config, set(), FLOW_SUPPORTED, ignored))
    static = StaticShift(config.get("shift", 1.0))
    is_dynamic = config.get("use_dynamic_shifting", False)
    if model_type == "flux2":
        return FlowProcess(empirical_shift)
    if model_type == "flux":
        return FlowProcess(dynamic if is_dynamic else static)
    if is_dynamic:
        raise ValueError(
            f"scheduler_config.json: use_dynamic_shifting True is not supported for "
            f"{model_type!r}, whose models are released with a static shift: set false"
        )
    return FlowProcess(static, table_sigmas)


def _named(samplers: Mapping[str, Any], name: str, process: str) -> Any:
    if name not in samplers:
        raise ValueError(
            f"sampling: {process} has no sampler {name!r}; use one of {sorted(samplers)!r}"
        )
    return samplers[name]
