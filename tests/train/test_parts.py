"""The plan, the objective, the state and the loop, each with numbers made by hand."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from stages.params.objective import Objective
from stages.params.optimizer import LrSchedule, Optimizer
from stages.params.training import BatchSize, Training
from stages.train.batches import Batch
from stages.train.ema import Ema
from stages.train.history import History, Metrics
from stages.train.loop import every, fit
from stages.train.methods import METHODS
from stages.train.model import Model
from stages.train.objectives import OBJECTIVES, FlowMatching
from stages.train.optimizers import OPTIMIZERS
from stages.train.plan import create_plan, micro_batch_sizes
from stages.train.state import TrainState


def plan(steps=10, warmup=4, kind="cosine", min_ratio=0.0):
    schedule = LrSchedule(type=kind, warmup_steps=warmup, min_ratio=min_ratio)
    return create_plan(Training(steps=steps, learning_rate=2.0, lr_schedule=schedule), lambda _: 0)


def test_the_rate_warms_up_in_a_straight_line_to_the_full_rate():
    assert [plan().lr(step) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]


@pytest.mark.parametrize(
    ("kind", "half_way"), [("constant", 2.0), ("linear", 1.1), ("cosine", 1.1)]
)
def test_the_rate_decays_to_its_least_share(kind, half_way):
    decays = plan(steps=14, warmup=4, kind=kind, min_ratio=0.1)
    assert decays.lr(9) == pytest.approx(half_way)
    assert decays.lr(14) == pytest.approx(2.0 if kind == "constant" else 0.2)


def test_epochs_become_steps_and_one_of_both_is_needed():
    assert create_plan(Training(epochs=3), lambda epochs: 7 * epochs).steps == 21
    with pytest.raises(ValueError, match=r"training\.steps and training\.epochs are both null"):
        create_plan(Training(), lambda epochs: 1)


@pytest.mark.parametrize(("sampling", "quarter"), [("uniform", 0.25), ("logit_normal", 0.3375)])
def test_times_follow_the_law_and_the_shift(sampling, quarter):
    uniform = torch.tensor([0.25, 0.5], dtype=torch.float64)
    plain = FlowMatching(Objective(timestep_sampling=sampling, shift=1.0)).times(uniform, 1)
    assert plain.tolist() == pytest.approx([quarter, 0.5], abs=1e-4)
    shifted = FlowMatching(Objective(timestep_sampling=sampling, shift=3.0)).times(uniform, 1)
    assert shifted[1] == pytest.approx(0.75)


def ddpm(**scheduler):
    base = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    settings = Objective(type="ddpm", timestep_sampling="uniform")
    return OBJECTIVES["ddpm"](settings, {**base, "timestep_spacing": "leading", **scheduler})


def test_times_of_ddpm_are_those_of_its_timesteps_each_as_likely():
    uniform = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    times, counts = torch.unique(ddpm().times(uniform, 1), return_counts=True)
    torch.testing.assert_close(times, torch.arange(1000) / 1000)
    assert counts.unique().tolist() == [5]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddpm_mixes_and_asks_for_what_the_bases_scheduler_says(prediction):
    data, noise = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), -1.0)
    t = torch.tensor([0.0, 0.999])
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    left = torch.cumprod(1 - roots**2, 0)[[0, 999]].float()
    signal, level = left.sqrt().view(2, 1, 1, 1), (1 - left).sqrt().view(2, 1, 1, 1)
    objective = ddpm(prediction_type=prediction)
    torch.testing.assert_close(objective.noisy(data, noise, t), signal * data + level * noise)
    expected = noise if prediction == "epsilon" else signal * noise - level * data
    torch.testing.assert_close(objective.losses(expected, data, noise, t), torch.zeros(2))
    torch.testing.assert_close(
        objective.losses(expected + 2, data, noise, t), torch.full((2,), 4.0)
    )


def test_a_model_that_embeds_guidance_is_told_the_objectives():
    denoiser = Scale()
    method = METHODS["full_finetune"](FlowMatching(Objective(guidance=1.5)), Training())
    method.losses(Model(denoiser), batch_of([0]))
    assert denoiser.told is None
    denoiser.embeds_guidance = True
    method.losses(Model(denoiser), batch_of([0]))
    assert denoiser.told == 1.5


def test_the_average_forgets_its_start_fast_and_then_keeps_its_decay():
    weight = nn.Parameter(torch.zeros(1))
    ema = Ema({"w": weight}, decay=0.5)
    weight.data.fill_(1.0)
    ema.update(step=1)
    assert ema.average["w"].item() == pytest.approx(1 - 2 / 11)
    ema.average["w"].zero_()
    ema.update(step=1000)
    assert ema.average["w"].item() == 0.5


class Scale:
    """A denoiser that multiplies by one number."""

    dtype = torch.float32
    embeds_guidance = False

    def __init__(self, start=0.5):
        self.network = nn.Module()
        self.network.scale = nn.Parameter(torch.tensor(start))

    def conditioning(self, rows, guidance=None):
        self.told = guidance
        return rows["context"]

    def predict(self, noisy, t, conditioning, residuals):
        return self.network.scale * noisy + conditioning.mean()


def state_of(denoiser, ema_decay=None):
    accelerator = Accelerator(cpu=True)
    trainable = dict(denoiser.network.named_parameters())
    optimizer = OPTIMIZERS["adamw"](trainable.values(), Optimizer())
    network, optimizer = accelerator.prepare(denoiser.network, optimizer)
    return TrainState(Model(denoiser), network, trainable, optimizer, accelerator, ema_decay)


def batch_of(ids, seed=0):
    random = torch.Generator().manual_seed(seed)
    latents = torch.randn(8, 2, 2, 2, generator=random)
    noise = torch.randn(8, 2, 2, 2, generator=random)
    t = torch.rand(8, generator=random)
    context = torch.zeros(len(ids), 1)
    names = tuple(str(i) for i in ids)
    return Batch(
        names, latents[ids], noise[ids], t[ids], torch.ones(len(ids)), {"context": context}
    )


class Given:
    def __init__(self, *micro_batches):
        self.micro_batches = micro_batches

    def at(self, step):
        return self.micro_batches


def train(*micro_batches, steps=3, hooks=()):
    state = state_of(Scale())
    method = METHODS["full_finetune"](FlowMatching(Objective()), Training())
    fit(state, method, Given(*micro_batches), plan(steps=steps, warmup=0), hooks)
    return state


def test_micro_batches_of_any_size_count_by_their_images():
    seen = []
    hooks = [lambda state, metrics: seen.append(metrics)]
    whole = train(batch_of([0, 1, 2, 3, 4]), hooks=hooks)
    parts = train(batch_of([0, 1, 2, 3]), batch_of([4]), hooks=hooks)
    for name, weight in whole.network.state_dict().items():
        torch.testing.assert_close(parts.network.state_dict()[name], weight)
    torch.testing.assert_close(seen[0].loss, seen[3].loss)
    torch.testing.assert_close(seen[0].grad_norm, seen[3].grad_norm)
    assert seen[3].names == ("0", "1", "2", "3", "4")
    torch.testing.assert_close(seen[3].losses.mean(), seen[3].loss)


def test_the_loss_is_the_mean_of_the_items_losses_times_their_weights():
    method, denoiser = METHODS["full_finetune"](FlowMatching(Objective()), Training()), Scale()
    weights = torch.tensor([0.25, 1.0, 3.0])
    model = Model(denoiser)
    alone = torch.cat([method.losses(model, batch_of([i])) for i in range(3)])
    batch = replace(batch_of([0, 1, 2]), weights=weights)
    torch.testing.assert_close(method.losses(model, batch), weights * alone)


def test_the_loss_is_the_mean_squared_error_of_the_velocity():
    method, model = METHODS["full_finetune"](FlowMatching(Objective()), Training()), Model(Scale())
    batch = batch_of([0, 1, 2, 3, 4])
    noisy = torch.lerp(batch.latents, batch.noise, batch.t.view(-1, 1, 1, 1))
    prediction = model.denoiser.predict(noisy, batch.t, torch.zeros(1), {})
    plain = F.mse_loss(prediction, batch.noise - batch.latents)
    (wanted,) = torch.autograd.grad(plain, model.learner.parameters())
    loss = method.losses(model, batch).mean()
    (found,) = torch.autograd.grad(loss, model.learner.parameters())
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, wanted)


def test_a_bucket_takes_the_batch_size_of_the_smallest_resolution_it_fits():
    sizes = [BatchSize(1024, 2), BatchSize(512, 6)]
    training = Training(batch_size=1, batch_sizes=sizes)
    buckets = ["512x512", "256x1024", "576x512", "1024x1024", "1088x1024"]
    assert list(micro_batch_sizes(buckets, training).values()) == [6, 6, 2, 2, 1]
    assert set(micro_batch_sizes(buckets, Training(batch_size=3)).values()) == {3}


def test_evaluation_uses_the_average_and_gives_the_weights_back():
    state = state_of(Scale(), ema_decay=0.9)
    state.ema.average["scale"].fill_(7.0)
    with state.evaluation() as model:
        assert model.denoiser.network.scale.item() == 7.0
        assert not torch.is_grad_enabled()
    assert state.model.denoiser.network.scale.item() == 0.5
    assert state.network.training


def test_every_calls_on_multiples_and_at_the_end():
    called = []
    train(batch_of([0]), steps=7, hooks=[every(3, 7, lambda s, m: called.append(s.step))])
    assert called == [3, 6, 7]


def metrics(loss, grad_norm=1.0, lr=0.1, ids=("a",)):
    return Metrics(
        torch.tensor(loss),
        torch.tensor(0.0),
        torch.tensor(grad_norm),
        lr,
        ids,
        *torch.tensor([[loss, 1.0, 0.5]] * len(ids)).T,
    )


def test_a_row_of_the_curve_is_the_mean_since_the_last_one_also_across_a_restart():
    history = History()
    history.add(metrics(1.0))
    history.settle(1)
    plain, history = json.loads(json.dumps(history.to_json())), History()
    history.load(plain)
    history.add(metrics(2.0, grad_norm=3.0))
    history.close_window(2, lr=0.1)
    history.add(metrics(5.0))
    history.close_window(3, lr=0.05)
    rows = [tuple(row) for row in history.losses]
    assert rows == [(2, 1.5, 0.1, 2.0, 0.0), (3, 5.0, 0.05, 1.0, 0.0)]


def test_three_steps_without_a_finite_loss_end_training_with_the_names_of_the_first():
    history = History()
    for step, (loss, ids) in enumerate([(1.0, "x"), (math.nan, "first"), (math.inf, "y")], 1):
        history.add(metrics(loss, ids=(ids,)))
        assert history.settle(step) == (step == 1)
    history.add(metrics(1.0, grad_norm=math.nan))
    with pytest.raises(ValueError, match="not finite since step 2, which trained on samples first"):
        history.settle(4)


def test_a_single_bad_step_does_not_end_training():
    history = History()
    for loss in [math.nan, math.nan, 1.0, math.nan, math.nan]:
        history.add(metrics(loss))
    assert not history.settle(5)
    history.add(metrics(1.0))
    assert history.settle(6)
