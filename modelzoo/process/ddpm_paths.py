"""Which noise levels the DDPM samplers visit, by the conventions of diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modelzoo.process.ddpm import NUM_TIMESTEPS, DdpmSchedule
from modelzoo.process.samplers import DATA, Level

LAST = NUM_TIMESTEPS - 1
# what is left of the data's variance at the noisiest timestep, where a log-SNR must be finite:
# float16's smallest number, as in diffusers
LEAST_LEFT = 2.0**-24


def _leading(steps: int, offset: int) -> Tensor:
    return torch.arange(steps - 1, -1, -1) * (NUM_TIMESTEPS // steps) + offset


def _trailing(steps: int, offset: int) -> Tensor:
    return (NUM_TIMESTEPS - torch.arange(steps).double() * (NUM_TIMESTEPS / steps)).round() - 1


def _linspace(steps: int, offset: int) -> Tensor:
    return torch.linspace(0, LAST, steps, dtype=torch.float64).flip(0)


# steps and offset to falling timesteps (steps,) (Lin et al. 2023, table 2); only the first, which
# never reaches the last timestep otherwise, takes an offset
SPACINGS: dict[str, Callable[[int, int], Tensor]] = {
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
}


def spaced(schedule: DdpmSchedule, steps: int) -> Tensor:
    """Give falling timesteps (steps,), in float64; "linspace" ones lie between integers.

    Raises:
        ValueError: The spacing is unknown, or there are not that many timesteps.
    """
    name = schedule.timestep_spacing
    if name not in SPACINGS:
        raise ValueError(
            f"scheduler: timestep_spacing {name!r} is unknown; use one of {sorted(SPACINGS)!r}"
        )
    if steps >= 1:
        timesteps = SPACINGS[name](steps, schedule.steps_offset).double()
    if not 1 <= steps <= NUM_TIMESTEPS or timesteps[0] > LAST:
        raise ValueError(
            f"sampling: {steps!r} steps cannot be spaced as {name!r} over {NUM_TIMESTEPS} "
            f"timesteps with an offset of {schedule.steps_offset}: use at least one and fewer"
        )
    return timesteps


def euler_path(schedule: DdpmSchedule, steps: int) -> list[Level]:
    """Go to data over the noise levels sigma = noise / signal, interpolated between timesteps."""
    timesteps = spaced(schedule, steps)
    left = schedule.alphas_cumprod.clamp_min(LEAST_LEFT)
    sigmas = ((1 - left) / left).sqrt()
    below, above = timesteps.floor().long(), timesteps.ceil().long()
    sigmas = torch.lerp(sigmas[below], sigmas[above], timesteps - below)
    return _path(timesteps, 1 / (1 + sigmas**2), DATA)


def ddim_path(schedule: DdpmSchedule, steps: int) -> list[Level]:
    """Go over integer timesteps to data, or to timestep 0, as the schedule says."""
    timesteps = spaced(schedule, steps).round()
    left = schedule.alphas_cumprod
    end = DATA if schedule.set_alpha_to_one else _path(timesteps[:1], left[:1], DATA)[0]
    return _path(timesteps, left[timesteps.long()], end)


def dpmpp_path(schedule: DdpmSchedule, steps: int) -> list[Level]:
    """Go over integer timesteps to data; all spacings but "trailing" leave out the last one."""
    if schedule.timestep_spacing == "trailing":
        timesteps = spaced(schedule, steps)
    else:
        timesteps = spaced(schedule, steps + 1)[:-1].round()
    left = schedule.alphas_cumprod.clamp_min(LEAST_LEFT)
    return _path(timesteps, left[timesteps.long()], DATA)


def _path(timesteps: Tensor, left: Tensor, end: Level) -> list[Level]:
    columns = (timesteps / NUM_TIMESTEPS, left.sqrt(), (1 - left).sqrt())
    return [*map(Level, *(column.tolist() for column in columns)), end]
