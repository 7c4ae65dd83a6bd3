"""Learning to fill: channels beside the noise, of masks that came with pictures or are drawn."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelzoo.autoencoders import init_autoencoder, load_autoencoder, save_autoencoder
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from modelzoo.flux.components.conditions import fill_condition
from modelzoo.flux.components.editing import fill_channels, widened_for_fill
from stages.base_record import Part, read_record, write_record
from stages.params.resolve import settled
from stages.train import stage
from stages.train.random_masks import random_mask
from stages.train.stage import create_trainer, run
from stages.trained import load_trained
from tests import toys

EXPERIMENTS = Path(__file__).parents[2] / "params" / "experiments"
OBJECTIVES = {"flux": {"objective": {"guidance": 1.0}}, "flux2": {}}
CELLS = {"flux": 2, "flux2": 4}  # pixels along a side of a latent cell
COLUMNS = {"flux": 16 + 4 * 4, "flux2": 16 + 4 * 4}  # of a token beside the noise
RANDOM = {"editing": "fill", "fill": {"masks": "random"}}


def params_of(workspace, **training):
    return workspace.params(**OBJECTIVES[workspace.family], **training)


def give_autoencoder(workspace):
    """Write a toy autoencoder where the workspace's record of one points."""
    model = dataclasses.asdict(toys.section(workspace.family, workspace.root))
    folder = workspace.root / "data/base/model/vae"
    config = FAMILIES[workspace.family].autoencoder_config(model)
    save_autoencoder(init_autoencoder(config, 1), folder)
    part = Part(config["_class_name"], folder, "vae")
    write_record(workspace.root / "data/base/vae.json", {"vae": part}, {})
    return load_autoencoder(folder)


def with_masks(batch, cell):
    """Give the left halves of a batch's pictures to be filled, and latents of what is left."""
    size, _, height, width = batch.latents.shape
    mask = torch.zeros(size, 1, cell * height, cell * width)
    mask[..., : cell * width // 2] = 1
    masked = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    return replace(batch, mask=mask, masked=masked)


def make_filler(workspace):
    """Widen the workspace's base for filling."""
    kind = FAMILIES[workspace.family]
    record = read_record(workspace.root / "data/base/denoiser.json")
    folder = record.folders[kind.folder]
    denoiser = load_denoiser(kind.denoiser, folder)
    save_denoiser(widened_for_fill(denoiser, CELLS[workspace.family]), folder)


@pytest.fixture
def without_masks(monkeypatch):
    """Let training open rows of targets alone; the tests add masks to its batches."""
    monkeypatch.setattr(stage, "roles_read", lambda _: set())


@pytest.mark.parametrize("family", CELLS)
def test_a_widened_model_loses_exactly_what_its_base_does_before_the_first_step(
    make_workspace, without_masks, family
):
    workspace = make_workspace(family=family)
    base = create_trainer(params_of(workspace))
    fill = create_trainer(params_of(workspace, editing="fill"))
    network = fill.state.network
    assert network.config.fill_channels == COLUMNS[family]
    batch = with_masks(base.batches.at(0)[0], CELLS[family])
    expected = base.method.losses(base.state.model, batch)
    assert torch.equal(fill.method.losses(fill.state.model, batch), expected)
    fill.method.losses(fill.state.model, batch).sum().backward()
    gradient = network.x_embedder.weight.grad[:, -COLUMNS[family] :]
    assert gradient.abs().max() > 0  # and learns from what it sees


@pytest.mark.parametrize("family", CELLS)
def test_the_network_sees_what_is_left_and_the_mask(make_workspace, without_masks, family):
    trainer = create_trainer(params_of(make_workspace(family=family), editing="fill"))
    model, seen = trainer.state.model, []
    model.denoiser.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    batch = with_masks(trainer.batches.at(0)[0], CELLS[family])
    trainer.method.losses(model, batch)
    told = model.denoiser.conditioning(
        batch.conditions, 1.0 if model.denoiser.embeds_guidance else None
    )
    fill = fill_condition(batch.masked, batch.mask)
    told = model.denoiser.with_pictures(told, fill=fill)
    expected = model.denoiser.arguments(batch.latents, batch.t, told)["img_cond"]
    assert torch.equal(seen[0]["img_cond"], expected)
    assert seen[0]["img_cond"].shape[-1] == COLUMNS[family]


@pytest.mark.parametrize("family", CELLS)
def test_random_masks_train_a_model_that_loads_as_a_fill_model(make_workspace, family):
    workspace = make_workspace(family=family)
    give_autoencoder(workspace)
    run(params_of(workspace))
    summary = json.loads((workspace.output / "summary.json").read_text())
    base = summary["val_loss_base"]
    run(params_of(workspace, **RANDOM))
    filled = json.loads((workspace.output / "summary.json").read_text())
    assert filled["val_loss_base"] == base
    assert filled["val_loss"] < 0.98 * base
    assert filled["time_offset"] is None
    record = read_record(workspace.root / "data/base/denoiser.json")
    loaded = load_trained(family, workspace.output / "weights", record, torch.float32)
    trained = loaded.denoiser
    assert trained.config.fill_channels == COLUMNS[family]
    learned = trained.network.get_submodule("x_embedder").weight[:, -COLUMNS[family] :]
    assert learned.abs().max() > 0


@pytest.mark.parametrize("family", CELLS)
def test_masks_of_the_dataset_are_learned_from(make_workspace, family):
    workspace = make_workspace(family=family, has_masks=True)
    run(params_of(workspace, editing="fill"))
    summary = json.loads((workspace.output / "summary.json").read_text())
    assert summary["val_loss"] < 0.98 * summary["val_loss_base"]


def test_a_random_mask_belongs_to_the_visit_and_hides_what_it_covers(make_workspace):
    workspace = make_workspace()
    autoencoder = give_autoencoder(workspace)
    trainer = create_trainer(params_of(workspace, **RANDOM))
    model, batch = trainer.state.model, trainer.batches.at(0)[0]
    conditioning = model.denoiser.conditioning(batch.conditions)
    first = model.editing.add(model.denoiser, conditioning, batch).fill
    height, width = (4 * side for side in batch.latents.shape[-2:])
    visits = zip(batch.names, batch.visits, strict=True)
    masks = torch.stack([random_mask(height, width, 1, name, visit) for name, visit in visits])
    pixels = autoencoder.decode(batch.latents).clamp(-1, 1)
    assert torch.equal(first, fill_channels(pixels, masks, autoencoder, torch.device("cpu")))
    assert torch.equal(model.editing.add(model.denoiser, conditioning, batch).fill, first)
    later = replace(batch, visits=tuple(visit + 1 for visit in batch.visits))
    other = model.editing.add(model.denoiser, conditioning, later).fill
    assert all((one != two).any() for one, two in zip(first, other, strict=True))


def test_random_masks_are_boxes_and_strokes_that_fill_something_and_keep_something():
    masks = torch.stack([random_mask(32, 48, 7, "a", visit) for visit in range(300)])
    assert masks.shape == (300, 1, 32, 48)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    shares = masks.mean((1, 2, 3))
    assert 0 < shares.min() < 0.1
    assert 0.6 < shares.max() < 1
    assert 0.2 < shares.mean() < 0.5
    assert len({mask.numpy().tobytes() for mask in masks}) == 300
    assert torch.equal(random_mask(32, 48, 7, "a", 5), masks[5])


def test_a_base_that_fills_is_taken_as_it_is_and_by_filling_alone(make_workspace, without_masks):
    workspace = make_workspace(family="flux")
    make_filler(workspace)
    for method in ({}, {"method": "lora", "lora": {"rank": 2}}):
        trainer = create_trainer(params_of(workspace, editing="fill", **method))
        assert trainer.state.model.denoiser.config.fill_channels == COLUMNS["flux"]
        batch = trainer.batches.at(0)[0]
        losses = trainer.method.losses(trainer.state.model, with_masks(batch, 2))
        assert losses.isfinite().all()
    with pytest.raises(ValueError, match=f"the base takes {COLUMNS['flux']} channels beside the"):
        create_trainer(params_of(workspace))


def test_adapters_cannot_teach_a_base_to_see_what_it_has_no_channels_for(workspace, without_masks):
    with pytest.raises(ValueError, match="the widened x_embedder must learn"):
        create_trainer(params_of(workspace, editing="fill", method="lora", lora={"rank": 2}))


def test_a_sample_without_a_mask_is_named(workspace, without_masks):
    trainer = create_trainer(params_of(workspace, editing="fill"))
    batch = trainer.batches.at(0)[0]
    with pytest.raises(ValueError, match=f"sample '{batch.names[0]}' has no mask"):
        trainer.method.losses(trainer.state.model, batch)


def digits(*overrides, family="flux2"):
    return settled(EXPERIMENTS / f"digits_{family}.yaml", overrides)


PROMPTS = [{"prompt": "a", "width": 96, "height": 32, "references": ["a.png"], "mask": "m.png"}]
SHOWN = (f"sample.prompts={json.dumps(PROMPTS)}", "sample.pictures=data/raw/digits")
FILL = ("training.editing=fill", *SHOWN)


def test_the_parameters_of_filling_are_accepted():
    assert digits(*FILL, "data.mask=mask").training.fill is None
    assert digits(*FILL, "training.fill.masks=random").training.draws_masks


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (FILL, "data.mask is null"),
        ((*FILL, "data.mask=mask", "training.fill.masks=random"), "'fill' draws masks at random"),
        (("training.fill.masks=random",), "training.fill is given"),
        (("training.editing=fill", "data.mask=mask"), "sample.prompts name no masks"),
    ],
)
def test_parameters_that_would_be_ignored_are_refused(overrides, problem):
    with pytest.raises(ValueError, match=problem):
        digits(*overrides)
