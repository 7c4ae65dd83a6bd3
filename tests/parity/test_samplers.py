"""Our noise schedules and samplers follow those of diffusers, step by step."""

from __future__ import annotations

from inspect import signature
from itertools import product

import diffusers
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.training_utils import compute_snr

from modelzoo.process.ddpm import DdpmSchedule, discrete_t
from modelzoo.process.defaults import DEFAULTS
from modelzoo.process.flow_matching import dynamic_mu
from modelzoo.process.processes import DynamicShift, FlowProcess, process_of
from modelzoo.process.samplers import Level, second_order, split_velocity

# scheduler_config.json of SDXL base 1.0, FLUX.1 dev and schnell, and SD3.5, as released
SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
SD3 = {**FLOW, "shift": 3.0}
SCHNELL = {
    **FLOW,
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "shift": 1.0,
    "use_dynamic_shifting": False,
}
DEV = {**SCHNELL, "shift": 3.0, "use_dynamic_shifting": True}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
CLASSES = {
    "euler": diffusers.EulerDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}
NOISE = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))


def toy_network(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Predict something that depends on the input and bends with the timestep."""
    return torch.sin(noisy + timestep.view(-1, 1, 1, 1) / 300) + 0.3 * noisy.roll(1, dims=-1)


def timestep(t: torch.Tensor) -> torch.Tensor:
    """Undo k / 1000 as SDXL does: a float32 t holds k to four decimals."""
    return (1000 * t.double()).round(decimals=4).float()


def our_network(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return toy_network(noisy, timestep(t))


def trajectory(scheduler) -> torch.Tensor:
    """Walk as the pipelines of diffusers do."""
    latents = NOISE * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        scale = getattr(scheduler, "scale_model_input", lambda latents, timestep: latents)
        told = timestep.float().expand(len(latents))
        prediction = toy_network(scale(latents, timestep), told)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents


def relative(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    return ((ours - oracle).abs().max() / oracle.abs().max()).item()


@pytest.mark.parametrize("more", [{}, {"prediction_type": "v_prediction"}, ZERO_SNR])
@pytest.mark.parametrize("steps", [1, 4, 25, 50])
@pytest.mark.parametrize(
    ("sampler", "spacing"),
    [  # DDIM of diffusers looks 1000 // steps back, which is another level in "linspace"
        pair
        for pair in product(["euler", "ddim", "dpmpp_2m"], ["leading", "trailing", "linspace"])
        if pair != ("ddim", "linspace")
    ],
)
def test_ddpm_trajectories_equal_those_of_diffusers(sampler, spacing, steps, more):
    config = {**SDXL, "timestep_spacing": spacing, **more}
    scheduler = CLASSES[sampler].from_config(config)
    scheduler.set_timesteps(steps)
    ours = process_of(config, "sdxl").sample(our_network, NOISE, steps, 30, sampler=sampler)
    # at zero signal the diffusers classes subtract numbers 4096 times as large as the result
    assert relative(ours, trajectory(scheduler)) < (1e-3 if more == ZERO_SNR else 3e-5)


@pytest.mark.parametrize("steps", [1, 4, 28, 50])
def test_sdxl_timesteps_arrive_as_the_integers_that_the_scheduler_visits(steps):
    seen = []

    def network(noisy, t):
        seen.append(timestep(t)[0].item())
        return noisy

    process_of(SDXL, "sdxl").sample(network, NOISE, steps, 30)
    scheduler = diffusers.EulerDiscreteScheduler.from_config(SDXL)
    scheduler.set_timesteps(steps)
    assert seen == scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 2, 4, 28, 50])
@pytest.mark.parametrize("tokens", [16, 256, 1024, 4096, 9000])
def test_flow_trajectories_equal_those_of_the_pipelines(tokens, steps):
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()
    asked = {
        ("flux", "dev"): (DEV, {"sigmas": even, "mu": calculate_shift(tokens)}),
        ("flux", "schnell"): (SCHNELL, {"sigmas": even, "mu": calculate_shift(tokens)}),
        ("sd3", "large"): (SD3, {"num_inference_steps": steps}),
    }
    for (family, variant), (config, arguments) in asked.items():
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
        scheduler.set_timesteps(**arguments)
        process = process_of(config, family)
        assert isinstance(process, FlowProcess)
        torch.testing.assert_close(
            process.sigmas(steps, tokens), scheduler.sigmas, rtol=0, atol=1e-6, msg=variant
        )
        ours = process.sample(our_network, NOISE, steps, tokens)
        assert relative(ours, trajectory(scheduler)) < 1e-5, variant


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_dpmpp_of_a_flow_takes_the_steps_of_diffusers(steps):
    """The times differ (theirs are a table's), so ours are walked at theirs."""
    config = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
    scheduler = diffusers.DPMSolverMultistepScheduler(**config)
    scheduler.set_timesteps(steps)
    told = [*(scheduler.timesteps.double() / 1000).tolist(), 0.0]
    levels = zip(told, scheduler.sigmas.double().tolist(), strict=True)
    path = [Level(t, 1 - sigma, sigma) for t, sigma in levels]
    ours = second_order(our_network, split_velocity, NOISE, path)
    assert relative(ours, trajectory(scheduler)) < 1e-4


@pytest.mark.parametrize("tokens", [1, 256, 1024, 2304, 4096, 8192])
def test_the_dynamic_shift_is_that_of_the_pipeline(tokens):
    assert dynamic_mu(tokens) == pytest.approx(calculate_shift(tokens))
    ours = process_of({**DEV, "max_shift": 0.9, "base_image_seq_len": 128}, "flux")
    assert ours == FlowProcess(DynamicShift(max_shift=0.9, base_image_seq_len=128))


@pytest.mark.parametrize("more", [{}, {"prediction_type": "v_prediction"}, ZERO_SNR])
def test_noise_targets_and_snr_equal_those_of_diffusers(more):
    config = {**SDXL, **more}
    scheduler = diffusers.DDPMScheduler.from_config(config)
    schedule = DdpmSchedule.from_dict(config)
    timesteps = torch.tensor([0, 1, 37, 500, 998, 999])
    t = timesteps / 1000
    data, noise = torch.randn(2, 6, 3, 4, 4, generator=torch.Generator().manual_seed(1)).unbind()
    noisy = scheduler.add_noise(data, noise, timesteps)
    torch.testing.assert_close(schedule.add_noise(data, noise, t), noisy, rtol=1e-5, atol=1e-5)
    target = scheduler.get_velocity(data, noise, timesteps) if more else noise
    torch.testing.assert_close(schedule.target(data, noise, t), target, rtol=1e-5, atol=1e-5)
    expected = compute_snr(scheduler, timesteps)
    torch.testing.assert_close(schedule.snr(t), expected, rtol=2e-3, atol=1e-6)


def test_the_rescaled_schedule_is_that_of_diffusers():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0)
    ours = DdpmSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    torch.testing.assert_close(ours.alphas_cumprod, expected, rtol=1e-9, atol=1e-12)
    assert ours.alphas_cumprod[-1] == 0


def test_training_timesteps_are_those_that_uniform_numbers_hit():
    uniform = torch.rand(1000, generator=torch.Generator().manual_seed(2))
    assert torch.equal(timestep(discrete_t(uniform)), (1000 * uniform).floor())


@pytest.mark.parametrize(
    ("pipeline", "checkpoint"),
    [
        (diffusers.StableDiffusionXLPipeline, ("sdxl", "base-1.0")),
        (diffusers.FluxPipeline, ("flux", "dev")),
        (diffusers.FluxKontextPipeline, ("flux", "kontext")),
        (diffusers.FluxFillPipeline, ("flux", "fill")),
        (diffusers.Flux2Pipeline, ("flux2", "dev")),
        (diffusers.Flux2KleinPipeline, ("flux2", "klein-base-4b")),
        (diffusers.StableDiffusion3Pipeline, ("sd3", "large")),
    ],
)
def test_defaults_are_those_of_the_pipelines(pipeline, checkpoint):
    arguments = signature(pipeline.__call__).parameters
    own = DEFAULTS[checkpoint]
    assert own.steps == arguments["num_inference_steps"].default
    scale = own.cfg_scale if own.guidance is None else own.guidance
    assert scale == arguments["guidance_scale"].default
