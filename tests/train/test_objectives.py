"""The laws of t, the weights and the errors of training, each against its formula."""

import math

import numpy as np
import pytest
import torch

from modelzoo.process.timesteps import cosmap_t, logit_normal_t, mode_t, uniform_t
from modelzoo.process.weighting import cosmap, debiased, min_snr, sigma_sqrt
from stages.params.objective import Objective
from stages.randomness import generator
from stages.train.objectives import OBJECTIVES, FlowMatching
from stages.train.objectives.laws import LAWS, shift_of
from tests.train.test_batches import batches

STRATIFIED = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
SDXL = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
}


def logit_normal_density(t, mean, std):
    logit = np.log(t / (1 - t))
    scale = std * math.sqrt(2 * math.pi) * t * (1 - t)
    return np.exp(-((logit - mean) ** 2) / (2 * std**2)) / scale


def mode_density(t, scale):
    """The slope of the inverse of eq. 20, on a grid fine enough."""
    u = np.linspace(0, 1, 400_001)
    f = 1 - u - scale * (np.cos(np.pi / 2 * u) ** 2 - 1 + u)
    return np.interp(t, f[::-1], 1 / np.abs(np.gradient(f, u))[::-1])


def cosmap_density(t):
    return 2 / (np.pi - 2 * np.pi * t + 2 * np.pi * t**2)


def shifted(density, shift):
    """The density of s t / (1 + (s - 1) t), by its inverse and that one's slope."""

    def of(t):
        bottom = shift + (1 - shift) * t
        return density(t / bottom) * shift / bottom**2

    return of


LAWS_AND_DENSITIES = {
    "uniform": (uniform_t, np.ones_like),
    "logit_normal": (logit_normal_t, lambda t: logit_normal_density(t, 0.0, 1.0)),
    "logit_normal_moved": (
        lambda u: logit_normal_t(u, 0.7, 0.6),
        lambda t: logit_normal_density(t, 0.7, 0.6),
    ),
    "mode": (mode_t, lambda t: mode_density(t, 1.29)),
    "mode_of_the_ends": (lambda u: mode_t(u, -0.5), lambda t: mode_density(t, -0.5)),
    "cosmap": (cosmap_t, cosmap_density),
    "shifted": (
        lambda u: FlowMatching(Objective(shift=3.0)).times(u, 1),
        shifted(lambda t: logit_normal_density(t, 0.0, 1.0), 3.0),
    ),
}


@pytest.mark.parametrize("name", LAWS_AND_DENSITIES)
def test_times_have_the_density_of_the_paper(name):
    law, density = LAWS_AND_DENSITIES[name]
    times = law(STRATIFIED).numpy()
    assert times.min() >= 0
    assert times.max() <= 1
    counts, edges = np.histogram(times, bins=50, range=(0, 1))
    inside = np.linspace(0, 1, 20_001)[1:-1]
    cumulative = np.concatenate([[0], np.cumsum(density(inside)) / 20_000])
    expected = np.diff(np.interp(edges, np.concatenate([[0], inside]), cumulative))
    np.testing.assert_allclose(counts / len(times), expected, atol=2e-4)


def test_the_default_law_keeps_its_bits():
    uniform = torch.from_numpy(generator("bits").random(1000))
    plain = torch.special.ndtri(uniform).sigmoid()
    assert torch.equal(FlowMatching(Objective()).times(uniform, 64), plain)
    moved = FlowMatching(Objective(shift=3.0)).times(uniform, 64)
    assert torch.equal(moved, 3.0 * plain / (1 + (3.0 - 1) * plain))


@pytest.mark.parametrize("name", LAWS)
def test_every_law_stays_in_bounds_at_the_ends_of_its_uniform_number(name):
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for kind in ("flow_matching", "ddpm"):
        settings = Objective(type=kind, timestep_sampling=name, logit_std=10.0)
        times = OBJECTIVES[kind](settings, SDXL).times(ends, 1)
        assert torch.isfinite(times).all()
        assert 0 <= times.min() <= times.max() <= (1 if kind == "flow_matching" else 0.9991)


def test_sigmoid_is_the_logistic_of_a_scaled_normal_number():
    settings = Objective(timestep_sampling="sigmoid", logit_std=2.0)
    times = FlowMatching(settings).times(STRATIFIED, 1)
    assert torch.logit(times).std().item() == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "num_tokens", "shift"),
    [
        ({"shift": 3.0}, 77, 3.0),
        ({"resolution_shift": "flux"}, 256, math.exp(0.5)),
        ({"resolution_shift": "flux"}, 4096, math.exp(1.15)),
        ({"resolution_shift": "flux"}, 1024, math.exp(0.63)),
        ({"resolution_shift": "flux2"}, 4096, math.exp(2.0234)),
        ({"resolution_shift": "sd3"}, 256, 1.0),
        ({"resolution_shift": "sd3"}, 4096, 4.0),
        ({"resolution_shift": "sd3", "base_tokens": 4096, "shift": 3.0}, 1024, 1.5),
    ],
)
def test_shifts_grow_with_the_tokens_of_a_picture_as_published(settings, num_tokens, shift):
    assert shift_of(Objective(**settings), num_tokens) == pytest.approx(shift, rel=1e-4)
    half = torch.tensor([0.5], dtype=torch.float64)
    settings |= {"timestep_sampling": "uniform"}
    time = FlowMatching(Objective(**settings)).times(half, num_tokens).item()
    assert time == pytest.approx(shift / (1 + shift), rel=1e-4)


def test_a_batch_tells_the_law_how_many_tokens_its_pictures_have():
    plain = batches()
    settings = Objective(resolution_shift="sd3", base_tokens=1)
    sized = batches(objective=FlowMatching(settings), num_tokens=lambda height, width: 3 * width)
    before, after = plain.at(0)[0], sized.at(0)[0]
    shift = math.sqrt(3 * 4)
    assert after.noise.equal(before.noise)
    torch.testing.assert_close(after.t, shift * before.t / (1 + (shift - 1) * before.t))


def test_weights_of_flow_matching_have_their_closed_form():
    t = torch.tensor([0.0, 0.1, 0.5, 1.0])
    assert sigma_sqrt(t).tolist() == pytest.approx([1e6, 100, 4, 1], rel=1e-5)
    assert cosmap(t).tolist() == pytest.approx(
        [2 / math.pi, 0.7764, 4 / math.pi, 2 / math.pi], 1e-3
    )
    assert cosmap(STRATIFIED).mean().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("weigh", "kind", "weights"),
    [
        (lambda snr, kind: min_snr(snr, 5.0, kind), "epsilon", [1.0, 1.0, 0.5]),
        (lambda snr, kind: min_snr(snr, 5.0, kind), "v_prediction", [0.2, 0.5, 5 / 11]),
        (debiased, "epsilon", [2.0, 1.0, 10**-0.5]),
        (debiased, "v_prediction", [0.4, 0.5, 10**0.5 / 11]),
    ],
)
def test_weights_of_ddpm_have_their_closed_form(weigh, kind, weights):
    assert weigh(torch.tensor([0.25, 1.0, 10.0]), kind).tolist() == pytest.approx(weights)


@pytest.mark.parametrize("weighting", ["min_snr", "debiased"])
def test_what_a_weighting_asks_of_the_data_does_not_depend_on_what_is_predicted(weighting):
    """An error of the data weighs the same whether the network predicts noise or v."""
    generator_ = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 4, 1, 8, 8, generator=generator_)
    t, wrong = torch.tensor([0.001, 0.3, 0.6, 0.99]), 0.1
    found = []
    for kind in ("epsilon", "v_prediction"):
        settings = Objective(type="ddpm", weighting=weighting)
        objective = OBJECTIVES["ddpm"](settings, SDXL | {"prediction_type": kind})
        signal, level = (part.view(4, 1, 1, 1) for part in objective.schedule.levels(t))
        noisy, guess = objective.noisy(data, noise, t), data + wrong
        epsilon = (noisy - signal * guess) / level
        prediction = epsilon if kind == "epsilon" else signal * epsilon - level * guess
        found.append(objective.losses(prediction, data, noise, t))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=0)


def loss_of(error, **settings):
    """The loss of one item whose prediction is off by `error` everywhere, at t 0.5."""
    objective = FlowMatching(Objective(**settings))
    data, noise = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    return objective.losses(noise - data + error, data, noise, torch.tensor([0.5])).item()


@pytest.mark.parametrize(
    ("settings", "small", "large"),
    [
        ({}, 0.04, 9.0),
        ({"loss": "huber"}, 0.02, 2.5),
        ({"loss": "huber", "huber_delta": 0.1}, 0.015, 0.295),
        ({"loss": "smooth_l1", "huber_delta": 0.1}, 0.15, 2.95),
        ({"weighting": "sigma_sqrt"}, 0.16, 36.0),
        ({"weighting": "cosmap", "loss": "huber"}, 0.02 * 4 / math.pi, 2.5 * 4 / math.pi),
    ],
)
def test_errors_count_as_the_settings_say(settings, small, large):
    assert loss_of(0.2, **settings) == pytest.approx(small, rel=1e-5)
    assert loss_of(-3.0, **settings) == pytest.approx(large, rel=1e-5)


def test_min_snr_of_sdxl_counts_noisy_times_fully_and_clear_ones_less():
    settings = Objective(type="ddpm", weighting="min_snr", snr_gamma=5.0)
    objective = OBJECTIVES["ddpm"](settings, SDXL)
    t = torch.arange(1000) / 1000
    noise = torch.zeros(1000, 1, 1, 1)
    weights = objective.losses(noise + 1, noise, noise, t)
    snr = objective.schedule.snr(t)
    torch.testing.assert_close(weights, torch.minimum(snr, torch.tensor(5.0)) / snr)
    assert weights[0] < 0.01
    assert weights[-1] == 1


def test_a_noise_offset_moves_whole_channels_by_a_draw_of_the_visit_and_nothing_else():
    plain = batches()
    objective = OBJECTIVES["ddpm"](Objective(type="ddpm", noise_offset=0.1), SDXL)
    offset = batches(objective=objective)
    moves = []
    for step in range(4):
        for before, after in zip(plain.at(step), offset.at(step), strict=True):
            difference = after.noise - before.noise
            assert (difference - difference[:, :, :1, :1]).abs().max() < 1e-6
            assert before.latents.equal(after.latents)
            moves += difference[:, :, 0, 0].flatten().tolist()
    assert len({round(move, 5) for move in moves}) == len(moves)
    assert 0.05 < np.std(moves) < 0.2
    again = batches(objective=objective, batch_size=1)
    by_name = {
        name: noise
        for batch in offset.at(0)
        for name, noise in zip(batch.names, batch.noise, strict=True)
    }
    found = [batch for step in range(13) for batch in again.at(step) if batch.names[0] in by_name]
    assert all(batch.noise[0].equal(by_name[batch.names[0]]) for batch in found)
    assert len(found) == len(by_name)


def test_a_schedule_without_signal_at_its_end_takes_no_weighting_that_leaves_the_end_out():
    scheduler = SDXL | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    plain = OBJECTIVES["ddpm"](Objective(type="ddpm"), scheduler)
    assert plain.schedule.snr(torch.tensor([0.999])).item() == 0
    with pytest.raises(ValueError, match="counts its last timestep for nothing: set 'none'"):
        OBJECTIVES["ddpm"](Objective(type="ddpm", weighting="min_snr"), scheduler)
