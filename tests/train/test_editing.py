"""What a batch's pictures tell the denoiser while it learns."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelzoo.families import FAMILIES
from modelzoo.flux.components.positions import reference_positions
from stages.params.editing import Kontext
from stages.params.resolve import settled
from stages.train.stage import create_trainer, run

EXPERIMENTS = Path(__file__).parents[2] / "params" / "experiments"
STEPS = {"flux": 1, "flux2": 10}  # of the released models, from one reference to the next along t
LEARNING = {"flux": {"objective": {"guidance": 1.0}}, "flux2": {}}


def trainer_of(workspace, **training):
    """Create a trainer of a network in which nothing is zero any more, so that all counts."""
    trainer = create_trainer(workspace.params(**LEARNING.get(workspace.family, {}), **training))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.state.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return trainer


def with_references(batch, *scales):
    """Add references of noise, each side `scale` times the target's."""
    height, width = batch.latents.shape[-2:]
    generator = torch.Generator().manual_seed(0)
    channels, size = batch.latents.shape[:2][::-1]
    references = tuple(
        torch.randn(size, channels, scale * height, scale * width, generator=generator)
        for scale in scales
    )
    return replace(batch, references=references)


def calls_of(network):
    """Note what a network is called with from now on, and what it gives."""
    seen = []
    network.register_forward_hook(
        lambda _, args, kwargs, output: seen.append((kwargs, output)), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("family", STEPS)
def test_references_become_tokens_at_the_offsets_of_the_released_models(make_workspace, family):
    trainer = trainer_of(make_workspace(family=family, references=(1,)), editing="kontext")
    batch = with_references(trainer.batches.at(0)[0], 1, 2)
    seen = calls_of(trainer.state.model.denoiser.network)
    trainer.method.losses(trainer.state.model, batch)
    ((given, _),) = seen
    patch = trainer.state.model.denoiser.patch
    sizes = tuple((r.shape[-2] // patch, r.shape[-1] // patch) for r in batch.references)
    num_tokens = sum(height * width for height, width in sizes)
    assert given["img_cond_seq"].shape[:2] == (len(batch), num_tokens)
    expected = reference_positions(sizes, STEPS[family], torch.device("cpu"))
    assert torch.equal(given["img_cond_seq_ids"], expected)
    assert set(given["img_cond_seq_ids"][:, 0].tolist()) == {STEPS[family], 2 * STEPS[family]}


@pytest.mark.parametrize("offset", [1.0, 2.5])
def test_the_offset_asked_for_is_the_one_that_is_trained(make_workspace, offset):
    workspace = make_workspace(references=(1,))
    trainer = trainer_of(workspace, editing="kontext", kontext={"time_offset": offset})
    seen = calls_of(trainer.state.model.denoiser.network)
    batch = with_references(trainer.batches.at(0)[0], 1)
    trainer.method.losses(trainer.state.model, batch)
    assert set(seen[0][0]["img_cond_seq_ids"][:, 0].tolist()) == {offset}


@pytest.mark.parametrize("family", STEPS)
def test_the_loss_is_that_of_the_targets_tokens_alone(make_workspace, family):
    """What the network gives has the target's tokens and no more, and the loss is their error."""
    trainer = trainer_of(make_workspace(family=family, references=(1,)), editing="kontext")
    model = trainer.state.model
    seen = calls_of(model.denoiser.network)
    batch = with_references(trainer.batches.at(0)[0], 2)
    losses = trainer.method.losses(model, batch)
    ((given, output),) = seen
    assert output.shape == given["hidden_states"].shape
    velocity = batch.noise - batch.latents
    conditioning = model.denoiser.conditioning(
        batch.conditions, 1.0 if model.denoiser.embeds_guidance else None
    )
    noisy = torch.lerp(batch.latents, batch.noise, batch.t.view(-1, 1, 1, 1))
    told = model.denoiser.with_pictures(conditioning, batch.references)
    prediction = model.denoiser.predict(noisy, batch.t, told)
    torch.testing.assert_close(losses, (prediction - velocity).square().flatten(1).mean(1))
    alone = model.denoiser.predict(noisy, batch.t, conditioning)
    assert (alone - prediction).abs().max() > 1e-5  # the references count


def test_each_item_looks_at_its_own_reference(make_workspace):
    trainer = trainer_of(make_workspace(references=(1,)), editing="kontext")
    batch = with_references(trainer.batches.at(0)[0], 1)
    before = trainer.method.losses(trainer.state.model, batch)
    other = batch.references[0].clone()
    other[1] += 3
    after = trainer.method.losses(trainer.state.model, replace(batch, references=(other,)))
    changed = (before - after).abs() > 1e-6
    assert changed.tolist() == [False, True] + [False] * (len(batch) - 2)


def test_a_sample_without_a_reference_is_named(make_workspace):
    trainer = trainer_of(make_workspace(references=(1,)), editing="kontext")
    batch = replace(trainer.batches.at(0)[0], references=())
    with pytest.raises(ValueError, match=f"sample '{batch.names[0]}' has no reference"):
        trainer.method.losses(trainer.state.model, batch)


@pytest.mark.parametrize("family", STEPS)
def test_references_of_the_dataset_are_learned_from(make_workspace, family):
    workspace = make_workspace(family=family, references=(2,))
    run(workspace.params(**LEARNING[family], editing="kontext", kontext={"time_offset": 3.0}))
    summary = json.loads((workspace.output / "summary.json").read_text())
    assert summary["val_loss"] < 0.98 * summary["val_loss_base"]
    assert summary["time_offset"] == 3  # for sampling


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - STEPS))
def test_families_that_edit_nothing_say_so(make_workspace, family):
    objective = {"type": "ddpm"} if family == "sdxl" else {}
    trainer = trainer_of(make_workspace(family=family), objective=objective)
    with pytest.raises(ValueError, match="takes no pictures to edit: use a model of a FLUX family"):
        trainer.state.model.denoiser.with_pictures(None)


def digits(*overrides, family="flux2"):
    return settled(EXPERIMENTS / f"digits_{family}.yaml", overrides)


KONTEXT = ("training.editing=kontext", "data.references=[reference]")


def test_the_parameters_of_kontext_are_accepted():
    assert digits(*KONTEXT, "training.kontext.time_offset=1.0").training.kontext == Kontext(1.0)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (KONTEXT[:1], "data.references is empty"),
        (KONTEXT[1:], "training.editing is None, which reads none"),
        (("training.kontext.time_offset=1.0",), "training.kontext is given"),
        (("data.mask=mask",), r"data\.mask: 'mask' given"),
    ],
)
def test_parameters_that_would_be_ignored_are_refused(overrides, problem):
    with pytest.raises(ValueError, match=problem):
        digits(*overrides)


def test_other_families_are_refused_by_their_parameters():
    with pytest.raises(ValueError, match=r"model.type 'sdxl' edits no pictures"):
        digits(*KONTEXT, family="sdxl")


def prompt(**pictures):
    return f"sample.prompts=[{json.dumps({'prompt': 'a', 'width': 32, 'height': 32} | pictures)}]"


SEEN, IN = prompt(references=["a.png"]), "sample.pictures=data/raw/digits"


def test_a_prompt_may_name_pictures_and_the_folder_they_are_in():
    assert digits(*KONTEXT, SEEN, IN).sample.prompts[0].references == ["a.png"]
    assert digits(SEEN, IN).sample.pictures == "data/raw/digits"  # any FLUX looks at references
    assert (EXPERIMENTS.parents[1] / digits().sample.pictures).is_file()  # dvc.yaml needs a path


@pytest.mark.parametrize(
    ("family", "overrides", "problem"),
    [
        ("sdxl", (SEEN, IN), r"model\.type 'sdxl' edits none"),
        ("flux2", (SEEN,), r"sample\.pictures is null"),
        ("flux2", (prompt(references=["a"], mask="b"), IN), "only 'fill' reads masks"),
    ],
)
def test_prompts_that_name_pictures_in_vain_are_refused(family, overrides, problem):
    with pytest.raises(ValueError, match=problem):
        digits(*overrides, family=family)
