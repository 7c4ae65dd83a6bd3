"""Samplers and noise schedules on problems whose answer is known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from modelzoo.process.ddpm import DdpmSchedule, discrete_t, timesteps
from modelzoo.process.ddpm_paths import ddim_path, dpmpp_path, euler_path
from modelzoo.process.defaults import DEFAULTS
from modelzoo.process.processes import (
    DDPM_SAMPLERS,
    FLOW_SAMPLERS,
    DdpmProcess,
    FlowProcess,
    StaticShift,
    empirical_shift,
    process_of,
)
from modelzoo.process.samplers import SPLITS, Level, empirical_sigmas, euler, shifted_sigmas

SCHEDULE = DdpmSchedule()
V_SCHEDULE = DdpmSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True)
FLOW = FlowProcess(StaticShift(1.0))
SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
}


def velocity_of_a_normal(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Predict at best for data of deviation 1/2, where everything is linear in the latents."""
    t = t.view(-1, 1, 1, 1)
    return (t - (1 - t) / 4) / ((1 - t) ** 2 / 4 + t**2) * noisy


def epsilon_of_a_normal(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    left = SCHEDULE.alphas_cumprod[timesteps(t)].view(-1, 1, 1, 1)
    return (noisy * (1 - left).sqrt() / (left / 4 + 1 - left)).float()


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_samplers_of_a_flow_agree_on_a_linear_problem(sampler):
    noise = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1)
    out = FLOW.sample(velocity_of_a_normal, noise, 400, 1, sampler=sampler)
    torch.testing.assert_close(out, noise / 2, rtol=1e-2, atol=0)


@pytest.mark.parametrize("sampler", DDPM_SAMPLERS)
def test_samplers_of_ddpm_agree_on_a_linear_problem(sampler):
    noise = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1)
    process = DdpmProcess(DdpmSchedule(timestep_spacing="trailing", set_alpha_to_one=True))
    out = process.sample(epsilon_of_a_normal, noise, 500, 1, sampler=sampler)
    torch.testing.assert_close(out, noise / 2, rtol=1e-2, atol=0)


def test_dpmpp_needs_fewer_steps_than_euler():
    noise = torch.ones(1, 1, 1, 1)

    def error(sampler: str) -> float:
        out = FLOW.sample(velocity_of_a_normal, noise, 30, 1, sampler=sampler)
        return abs(out.item() - 0.5)

    assert error("dpmpp_2m") < error("euler") / 3


def test_ddim_and_euler_take_the_same_step():
    noise = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    process = DdpmProcess(DdpmSchedule(set_alpha_to_one=True))
    outs = [process.sample(epsilon_of_a_normal, noise, 7, 9, sampler=s) for s in ("euler", "ddim")]
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", SPLITS)
def test_a_prediction_is_taken_apart_into_the_data_and_noise_it_was_made_of(prediction):
    data, noise = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64).unbind()
    signal, level = (0.7, 0.3) if prediction == "velocity" else (0.6, 0.8)
    predicted = {
        "velocity": noise - data,
        "epsilon": noise,
        "v_prediction": signal * noise - level * data,
    }[prediction]
    at = Level(0.5, signal, level)
    parts = SPLITS[prediction](signal * data + level * noise, predicted, at)
    torch.testing.assert_close(parts, (data, noise))


@pytest.mark.parametrize("make_path", [euler_path, ddim_path, dpmpp_path])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_paths_fall_from_noise_to_data_at_unit_variance(make_path, spacing):
    path = make_path(DdpmSchedule(timestep_spacing=spacing, set_alpha_to_one=True), 12)
    assert len(path) == 13
    assert path[-1] == Level(0.0, 1.0, 0.0)
    assert all(a.noise > b.noise and a.t >= b.t for a, b in pairwise(path))
    assert all(math.isclose(at.signal**2 + at.noise**2, 1) for at in path)


def test_ddim_ends_at_timestep_0_unless_told_otherwise():
    end = ddim_path(SCHEDULE, 12)[-1]
    assert end.signal**2 == pytest.approx(1 - 0.00085)
    assert end.noise > 0


def test_a_schedule_without_signal_at_the_end_trains_on_pure_noise():
    data, noise = torch.randn(2, 3, 4, 2, 2).unbind()
    t = torch.full((3,), 0.999)
    assert torch.equal(V_SCHEDULE.add_noise(data, noise, t), noise)
    assert torch.equal(V_SCHEDULE.target(data, noise, t), -data)
    assert V_SCHEDULE.snr(t).tolist() == [0, 0, 0]


def test_the_first_timestep_adds_the_first_beta():
    t = torch.zeros(1)
    assert SCHEDULE.snr(t).item() == pytest.approx((1 - 0.00085) / 0.00085, rel=1e-4)


def test_every_timestep_survives_its_time():
    everyone = torch.arange(1000)
    assert torch.equal(timesteps(everyone / 1000), everyone)
    assert torch.equal(timesteps(discrete_t((everyone + 0.5) / 1000)), everyone)
    assert discrete_t(torch.tensor([0.0, 1 - 2**-24])).tolist() == pytest.approx([0, 0.999])


def test_a_flow_process_samples_as_euler_does_and_takes_another_shift():
    noise = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    process = FlowProcess(empirical_shift)
    ours = process.sample(velocity_of_a_normal, noise, 5, 64)
    assert torch.equal(ours, euler(velocity_of_a_normal, noise, empirical_sigmas(5, 64)))
    assert torch.equal(process.sigmas(5, 64, shift=3.0), shifted_sigmas(5, 3.0))


def test_sd3_spaces_its_times_over_a_table_that_is_shifted_already():
    process = process_of({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "sd3")
    assert isinstance(process, FlowProcess)
    assert process.sigmas(28, 4096)[-2].item() == pytest.approx(0.008929, abs=1e-6)


@pytest.mark.parametrize(
    ("config", "family", "complaint"),
    [
        ({"_class_name": "PNDMScheduler"}, "sdxl", r"'PNDMScheduler'.*EulerDiscrete"),
        (SDXL | {"use_karras_sigmas": True}, "sdxl", "use_karras_sigmas True.*False"),
        (SDXL | {"beta_schedule": "linear"}, "sdxl", "'linear'.*'scaled_linear'"),
        (SDXL | {"karras": True}, "sdxl", r"unknown are \['karras'\]"),
        ({"_class_name": "DDIMScheduler"}, "sdxl", r"missing are \['beta_end', "),
        (SDXL | {"prediction_type": "sample"}, "sdxl", "'sample' is unknown"),
        (SDXL | {"rescale_betas_zero_snr": True}, "sdxl", "set 'v_prediction'"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            "sd3",
            "'sd3'.*set false",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.02},
            "flux",
            r"shift_terminal 0.02.*None",
        ),
    ],
)
def test_a_scheduler_we_do_not_have_is_refused(config, family, complaint):
    with pytest.raises(ValueError, match=complaint):
        process_of(config, family)


def test_what_a_process_cannot_sample_is_refused():
    noise, ddpm = torch.zeros(1, 4, 2, 2), DdpmProcess(SCHEDULE)
    with pytest.raises(ValueError, match=r"no sampler 'ddim'.*dpmpp_2m"):
        FLOW.sample(velocity_of_a_normal, noise, 4, 1, sampler="ddim")
    with pytest.raises(ValueError, match=r"no sampler 'heun'.*ddim"):
        ddpm.sample(epsilon_of_a_normal, noise, 4, 1, sampler="heun")
    with pytest.raises(ValueError, match=r"shift 3\.0"):
        ddpm.sample(epsilon_of_a_normal, noise, 4, 1, shift=3.0)
    for steps in (0, 1000, 1001):
        with pytest.raises(ValueError, match=f"{steps} steps"):
            ddpm.sample(epsilon_of_a_normal, noise, steps, 1)
    with pytest.raises(ValueError, match="'even' is unknown"):
        euler_path(DdpmSchedule(timestep_spacing="even"), 4)


def test_defaults_guide_in_one_way_only():
    assert all(own.cfg_scale == 1 or own.guidance is None for own in DEFAULTS.values())
    assert {family for family, _ in DEFAULTS} == {"sdxl", "flux", "flux2", "sd3"}
