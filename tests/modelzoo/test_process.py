"""The diffusion process on problems whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from modelzoo.process.flow_matching import interpolate, shift_t, velocity_target
from modelzoo.process.samplers import empirical_sigmas, euler, guided, shifted_sigmas


def test_the_velocity_is_the_slope_of_the_interpolation():
    data, noise = torch.randn(2, 3, 4, 2, 2).unbind()
    t = torch.tensor([0.0, 0.25, 0.8])
    step = 0.1
    slope = (interpolate(data, noise, t + step) - interpolate(data, noise, t)) / step
    torch.testing.assert_close(slope, velocity_target(data, noise), rtol=1e-4, atol=1e-4)


def test_t_0_is_data_and_t_1_is_noise():
    data, noise = torch.randn(2, 3, 4, 2, 2).unbind()
    assert torch.equal(interpolate(data, noise, torch.zeros(3)), data)
    assert torch.equal(interpolate(data, noise, torch.ones(3)), noise)


def test_a_shift_moves_times_towards_noise():
    t = torch.tensor([0.0, 0.5, 1.0])
    assert shift_t(t, 3.0).tolist() == [0, 0.75, 1]
    assert torch.equal(shift_t(t, 1.0), t)
    torch.testing.assert_close(shift_t(shift_t(t, 3.0), 1 / 3), t)


def test_the_empirical_shift_has_the_published_values():
    from modelzoo.process.flow_matching import empirical_mu

    assert empirical_mu(4096, 50) == pytest.approx(2.023, abs=1e-3)
    assert empirical_mu(4096, 4) == pytest.approx(2.291, abs=1e-3)
    assert empirical_mu(1024, 50) == pytest.approx(1.702, abs=1e-3)
    assert empirical_mu(8192, 4) == empirical_mu(8192, 50) == pytest.approx(1.843, abs=1e-3)


def test_schedules_fall_from_noise_to_data():
    for sigmas in (shifted_sigmas(10, 1.0), empirical_sigmas(10, 64)):
        assert len(sigmas) == 11
        assert sigmas[0] == 1
        assert sigmas[-1] == 0
        assert (sigmas.diff() < 0).all()
    torch.testing.assert_close(shifted_sigmas(4, 1.0), torch.tensor([1, 0.75, 0.5, 0.25, 0]))
    assert empirical_sigmas(1, 64)[0] == 1
    with pytest.raises(ValueError, match="at least one step"):
        shifted_sigmas(0, 1.0)


def test_euler_is_exact_where_the_velocity_is_constant():
    data, noise = torch.randn(2, 3, 4, 2, 2).unbind()
    sigmas = shifted_sigmas(3, 2.0)
    out = euler(lambda noisy, t: noise - data, noise, sigmas)
    torch.testing.assert_close(out, data)


def test_euler_converges_on_a_linear_problem():
    """dx/dt = x from t 1 to 0 divides by e; the error falls with the step size."""
    noise = torch.ones(1, 1, 1, 1)
    errors = [
        abs(euler(lambda noisy, t: noisy, noise, shifted_sigmas(n, 1.0)).item() - math.exp(-1))
        for n in (10, 20, 40)
    ]
    assert errors[0] > 1.9 * errors[1] > 3.6 * errors[2] > 0


def test_euler_hands_every_sample_its_time():
    seen = []

    def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t.tolist())
        return noisy

    euler(predict, torch.ones(2, 1, 1, 1), shifted_sigmas(2, 1.0))
    assert seen == [[1, 1], [0.5, 0.5]]


def test_guidance_extrapolates_from_the_unconditional():
    one, three = (lambda noisy, t: noisy), (lambda noisy, t: 3 * noisy)
    x, t = torch.ones(1, 1, 1, 1), torch.ones(1)
    assert guided(three, one, 2.0)(x, t).item() == 5
    assert guided(three, one, 1.0) is three
    assert guided(three, one, 0.0)(x, t).item() == 1
