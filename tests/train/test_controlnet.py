"""A ControlNet beside a frozen base: what it changes, what learns, what is written and refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelzoo.controlnets import kind_of, load_controlnet_of
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from stages.artifacts import read_json
from stages.base_record import read_record
from stages.params.resolve import settled
from stages.train.model import Model
from stages.train.stage import create_trainer, run
from stages.trained import load_trained

EXPERIMENTS = Path(__file__).parents[2] / "params" / "experiments"
EXPERIMENT = {family: f"digits_{family}.yaml" for family in ("sdxl", "flux2")}
SIZE = {"num_images": 6, "num_validation": 1, "has_conditions": True}
EXPERIMENT |= {"flux": "digits_flux1.yaml", "sd3": "digits_sd35.yaml"}


def trainer_of(workspace, controlnet=None, **training):
    """Create a trainer on a base in which nothing is zero, so that every path through it counts.

    Of SDXL, a picture has twice the cells of its latents along a side.
    """
    kind = FAMILIES[workspace.family]
    folder = read_record(workspace.root / "data/base/denoiser.json").folders[kind.folder]
    denoiser = load_denoiser(kind.denoiser, folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_denoiser(denoiser, folder)
    if workspace.family == "sdxl":
        training["objective"] = {"type": "ddpm"}
        controlnet = {"embedding_channels": [4, 8], **(controlnet or {})}
    return create_trainer(workspace.params(method="controlnet", controlnet=controlnet, **training))


def with_condition(trainer, seed=0, step=0):
    """Give a batch pictures to follow."""
    batch = trainer.batches.at(step)[0]
    num, channels, height, width = batch.latents.shape
    shape = (num, channels, height, width)
    if kind_of(trainer.state.model.denoiser).sees_pixels:
        shape = (num, 3, 2 * height, 2 * width)
    generator = torch.Generator().manual_seed(seed)
    return replace(batch, condition=torch.rand(shape, generator=generator))


def learn(trainer, steps):
    """Take optimizer steps; return the parameters that had no gradient, or one of zeros."""
    state = trainer.state
    for step in range(steps):
        trainer.method.losses(state.model, with_condition(trainer, step, step)).mean().backward()
        still = {
            name
            for name, parameter in state.trainable.items()
            if parameter.grad is None or not parameter.grad.any()
        }
        state.set_lr(1e-2)
        state.advance()
    return still


@pytest.mark.parametrize("family", FAMILIES)
def test_step_0_is_the_base_and_every_weight_of_the_controlnet_alone_learns(make_workspace, family):
    trainer = trainer_of(make_workspace(family=family, **SIZE))
    method, model = trainer.method, trainer.state.model
    base = model.denoiser.network
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    batch = with_condition(trainer)
    losses = method.losses(model, batch)
    assert torch.equal(losses, losses_of_base(trainer, batch))

    assert learn(trainer, 1)  # at first what lies before the outputs of zero has no gradient
    still = learn(trainer, 2)
    assert not {name for name in still if not is_unread(trainer, name)}
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert all(parameter.grad is None for parameter in base.parameters())

    first, other = (method.losses(model, with_condition(trainer, seed)) for seed in (0, 1))
    assert (first - losses).abs().max() > 1e-4
    assert (first - other).abs().max() > 1e-6  # it follows the picture


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_loaded_beside_its_base_and_no_other(make_workspace, tmp_path, family):
    trainer = trainer_of(make_workspace(family=family, **SIZE))
    model = trainer.state.model
    trainer.method.save(model, tmp_path / "saved")
    loaded = load_controlnet_of(model.denoiser, tmp_path / "saved")
    assert loaded.config == model.controlnet.config
    written, read = model.controlnet.state_dict(), loaded.state_dict()
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in written)
    name = kind_of(model.denoiser).shared[0]
    model.denoiser.config = replace(model.denoiser.config)
    object.__setattr__(model.denoiser.config, name, -1)
    with pytest.raises(ValueError, match=f"the ControlNet has {name} .* but its base has -1: give"):
        load_controlnet_of(model.denoiser, tmp_path / "saved")


def losses_of_base(trainer, batch, base=None):
    """Return the losses of the base alone; None: it is what the trainer's network is beside."""
    objective, denoiser = trainer.method.objective, base or trainer.state.model.denoiser
    guidance = objective.guidance if denoiser.embeds_guidance else None
    noisy = objective.noisy(batch.latents, batch.noise, batch.t)
    told = denoiser.conditioning(batch.conditions, guidance)
    plain = denoiser.predict(noisy, batch.t, told)
    return batch.weights * objective.losses(plain, batch.latents, batch.noise, batch.t)


def is_unread(trainer, name):
    """Whether a weight only serves the text that the last block of SD3.5's ControlNet writes."""
    blocks = getattr(trainer.state.network.config, "num_joint_layers", 0)
    return name.startswith(f"transformer_blocks.{blocks - 1}.") and (
        "context" in name or "add" in name
    )


def test_a_batch_without_pictures_or_with_others_is_one_sentence(make_workspace):
    trainer = trainer_of(make_workspace(has_conditions=True))
    batch = with_condition(trainer)
    with pytest.raises(ValueError, match=f"{batch.names[0]!r} has no condition picture: run"):
        trainer.method.losses(trainer.state.model, replace(batch, condition=None))
    small = replace(batch, condition=batch.condition[..., 1:])
    with pytest.raises(ValueError, match=r"is \d+x\d+ cells, but its target needs \d+x\d+: give"):
        trainer.method.losses(trainer.state.model, small)


def test_the_visits_that_go_without_a_picture_are_the_seeds(make_workspace):
    trainer = trainer_of(make_workspace(has_conditions=True), {"conditioning_dropout": 0.5})
    learn(trainer, 2)
    batch = with_condition(trainer)
    black = replace(batch, condition=torch.zeros_like(batch.condition))
    losses, blind = (trainer.method.losses(trainer.state.model, b) for b in (batch, black))
    dropped = losses == blind
    assert 0 < dropped.sum() < len(batch)
    assert torch.equal(losses, trainer.method.losses(trainer.state.model, batch))
    validation = replace(batch, visits=())
    assert not (trainer.method.losses(trainer.state.model, validation) == blind).any()


METHOD = ("training.method=controlnet",)


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("flux2", {}, "training.controlnet is null, but training.method 'controlnet' needs"),
        ("flux2", {"type": "given"}, "data.condition is null, but .* 'given' reads the pictures"),
        ("flux2", {"type": "depth"}, "depth_model is null, but conditioning_type 'depth' needs"),
        ("flux2", {"type": "grey", "canny_low": 9}, "canny_low is given, but only .* 'canny'"),
        ("flux2", {"type": "canny", "canny_low": 300}, "canny_low: 300 given, at most canny_high"),
        ("sdxl", {"type": "canny"}, "embedding_channels: .* 3 numbers expected, for the 3 levels"),
        ("flux2", {"embedding_channels": [4]}, "only model.type 'sdxl' reads it, not 'flux2'"),
        ("sd3", {"num_single_layers": 2}, "only model.type 'flux' and 'flux2' reads it"),
        ("flux2", {"type": "sketch"}, "'sketch' given, one of canny, .* expected"),
    ],
)
def test_what_the_method_cannot_use_is_refused_before_anything_runs(family, given, message):
    with pytest.raises(ValueError, match=message):
        settled(EXPERIMENTS / EXPERIMENT[family], [*METHOD, *overrides(given)])


def overrides(given):
    """Write keys of `training.controlnet` as a command line does."""
    names = {"type": "conditioning_type"}
    return [f"training.controlnet.{names.get(key, key)}={value}" for key, value in given.items()]


def test_a_condition_that_nobody_reads_is_refused():
    with pytest.raises(ValueError, match=r"training.method 'full_finetune' does not read: set it"):
        settled(EXPERIMENTS / EXPERIMENT["flux2"], ["data.condition=edges"])
    made = [*METHOD, "data.condition=edges", "training.controlnet.conditioning_type=canny"]
    with pytest.raises(ValueError, match="'canny', which makes its own pictures"):
        settled(EXPERIMENTS / EXPERIMENT["flux2"], made)


def test_a_controlnet_edits_nothing():
    given = [*METHOD, "training.editing=kontext", "data.references=[edit]"]
    given += ["training.controlnet.conditioning_type=canny"]
    with pytest.raises(ValueError, match="a ControlNet sees neither references nor masks"):
        settled(EXPERIMENTS / EXPERIMENT["flux2"], given)


@pytest.mark.parametrize("family", ["flux2", "sdxl"])
def test_a_training_follows_the_cached_conditions_and_is_loaded_beside_its_base(
    make_workspace, family
):
    workspace = make_workspace(family=family, **SIZE)
    trainer = trainer_of(workspace, {"conditioning_type": "canny"}, steps=2)
    trainer.fit()
    summary = read_json(workspace.output / "summary.json")
    assert summary["controlnet"]["conditioning_type"] == "canny"
    base = read_record(workspace.root / "data/base/denoiser.json")
    loaded = load_trained(family, workspace.output / "weights", base, torch.float32)
    batch = trainer.batches.at(2)[0]
    assert batch.condition is not None
    method, ours = trainer.method, Model(loaded.denoiser, loaded.controlnet)
    with trainer.state.evaluation() as kept:
        expected = method.losses(kept, batch)
        assert torch.equal(method.losses(ours, batch), expected)
    assert not torch.equal(expected, losses_of_base(trainer, batch))


def test_the_preset_is_checked_and_a_prompt_names_what_is_followed():
    prompts = "sample.prompts=[{prompt: two, width: 32, height: 32, condition_of: a.png}]"
    given = [*METHOD, "training.controlnet.conditioning_type=canny"]
    flux2 = EXPERIMENTS / EXPERIMENT["flux2"]
    with pytest.raises(ValueError, match=r"sample.prompts\[0\] gives no picture to follow, but"):
        settled(flux2, [*given, "evaluate.judge=edges"])
    with pytest.raises(ValueError, match=r"evaluate.judge: 'digits' given, but for a ControlNet"):
        settled(flux2, [*given, prompts])
    with pytest.raises(ValueError, match=r"sample.pictures is null, but sample.prompts name"):
        settled(flux2, [*given, prompts, "evaluate.judge=edges"])
    with pytest.raises(ValueError, match=r"'edges' given, but .* follows no edges: set null"):
        settled(flux2, ["evaluate.judge=edges"])
    with pytest.raises(ValueError, match=r"condition_of is given, but .* follows no pictures"):
        settled(flux2, [prompts])
    settings = [*given, prompts, "evaluate.judge=edges", "sample.pictures=params"]
    assert settled(flux2, settings).training.controlnet.conditioning_type == "canny"


@pytest.mark.parametrize("family", ["sdxl", "flux2"])
def test_a_base_of_bfloat16_follows_in_mixed_precision(make_workspace, forks, family):
    """accelerate gives a network's outputs in float32; the base goes on in its own dtype."""
    workspace = make_workspace(family=family, **SIZE)
    sizes = {"embedding_channels": [4, 8]} if family == "sdxl" else {"num_layers": 1}
    objective = {"type": "ddpm"} if family == "sdxl" else {}
    workspace.tree["model"]["dtype"] = "bfloat16"
    params = workspace.params(method="controlnet", controlnet=sizes, objective=objective, steps=2)
    child = forks.Process(target=run, args=(replace(params, mixed_precision="bf16"),))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert read_json(workspace.output / "summary.json")["steps"] == 2
