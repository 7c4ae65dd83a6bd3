"""A Control-LoRA: what it changes, what learns, what is written, resumed and refused."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelzoo.control_lora import NORMS, norms
from modelzoo.denoiser import load_denoiser
from modelzoo.families import FAMILIES
from stages.artifacts import read_json
from stages.base_record import read_record
from stages.params.resolve import settled
from stages.train.model import Model
from stages.train.stage import run
from stages.trained import load_trained
from tests.train.test_controlnet import SIZE, learn, losses_of_base, trainer_of, with_condition

EXPERIMENTS = Path(__file__).parents[2] / "params" / "experiments"
FLUX = ("flux", "flux2")
LORA = {"rank": 4, "alpha": 4.0, "target_modules": ["all-linear"]}


def control_lora(workspace, lora=None, base_quantization=None, **controlnet):
    training = {"lora": {**LORA, **(lora or {})}, "base_quantization": base_quantization}
    return trainer_of(workspace, {"kind": "lora", **controlnet}, steps=4, **training)


def base_of(workspace):
    return load_denoiser(FAMILIES[workspace.family].denoiser, folder_of_base(workspace))


def folder_of_base(workspace):
    record = read_record(workspace.root / "data/base/denoiser.json")
    return record.folders[FAMILIES[workspace.family].folder]


@pytest.mark.parametrize("family", FLUX)
def test_step_0_is_the_base_and_adapters_and_norms_alone_learn(make_workspace, family):
    workspace = make_workspace(family=family, **SIZE)
    trainer = control_lora(workspace)
    method, model = trainer.method, trainer.state.model
    network, learning = model.denoiser.network, trainer.state.trainable
    frozen = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    batch = with_condition(trainer)
    losses = method.losses(model, batch)
    assert torch.equal(losses, losses_of_base(trainer, batch, base_of(workspace)))

    assert learn(trainer, 1)  # what lies before the zeros of the adapters has no gradient at first
    assert not learn(trainer, 2)
    now = dict(network.named_parameters())
    assert all(torch.equal(now[name], before) for name, before in frozen.items())
    assert len(frozen) + len(learning) == len(now)
    assert len(norms(network)) == 6  # four of a block with two streams, two of one with one
    assert norms(network).keys() < learning.keys()
    assert (
        learning["x_embedder.lora_A.weight"].shape[1] == 2 * base_of(workspace).config.in_channels
    )
    first, other = (method.losses(model, with_condition(trainer, seed)) for seed in (0, 1))
    assert (first - losses).abs().max() > 1e-4
    assert (first - other).abs().max() > 1e-6  # it follows the picture


@pytest.mark.parametrize("family", FLUX)
def test_a_training_follows_the_cached_conditions_resumes_and_loads(
    make_workspace, family, monkeypatch
):
    workspace = make_workspace(family=family, **SIZE)
    trainer = control_lora(workspace, lora={"dropout": 0.2}, conditioning_dropout=0.5)
    with monkeypatch.context() as patch:
        patch.setattr("stages.train.checkpoints.Checkpoints.finish", lambda self: None)
        trainer.fit()
    files = ("adapter_model.safetensors", NORMS)
    expected = [(workspace.output / "weights" / name).read_bytes() for name in files]
    summary = read_json(workspace.output / "summary.json")
    assert summary["controlnet"]["kind"] == "lora"

    base = read_record(workspace.root / "data/base/denoiser.json")
    loaded = load_trained(family, workspace.output / "weights", base, torch.float32)
    assert loaded.sees_condition
    batch = trainer.batches.at(4)[0]
    assert batch.condition is not None
    with trainer.state.evaluation() as kept:
        losses = trainer.method.losses(kept, batch)
        loaded.denoiser.network.eval()
        assert torch.equal(trainer.method.losses(Model(loaded.denoiser), batch), losses)
    assert not torch.equal(losses, losses_of_base(trainer, batch, base_of(workspace)))

    (last,) = workspace.store.glob("checkpoints/*/step-00000004")
    shutil.rmtree(last)
    shutil.rmtree(workspace.output)
    run(trainer.params)  # as if it had been killed after step 3
    assert [(workspace.output / "weights" / name).read_bytes() for name in files] == expected


def test_norms_of_a_bfloat16_base_learn_in_float32_and_other_bases_are_refused(
    make_workspace, tmp_path
):
    workspace = make_workspace(**SIZE)
    workspace.tree["model"]["dtype"] = "bfloat16"
    trainer = control_lora(workspace)
    model = trainer.state.model
    batch = with_condition(trainer)
    base = base_of(workspace)
    base.network.to(torch.bfloat16)
    losses = trainer.method.losses(model, batch)
    assert torch.equal(losses, losses_of_base(trainer, batch, base))
    assert {p.dtype for p in norms(model.denoiser.network).values()} == {torch.float32}
    trainer.method.save(model, tmp_path / "saved")
    scales = load_file(tmp_path / "saved" / NORMS)
    scales.pop(min(scales))
    save_file(scales, tmp_path / "saved" / NORMS)
    record = read_record(workspace.root / "data/base/denoiser.json")
    with pytest.raises(ValueError, match=r"has 5 norms, but this model 6, .*: give a Control"):
        load_trained("flux2", tmp_path / "saved", record, torch.bfloat16)


def test_a_packed_base_is_widened_too(make_workspace):
    trainer = control_lora(make_workspace(**SIZE), base_quantization="int8")
    method, model = trainer.method, trainer.state.model
    losses = method.losses(model, with_condition(trainer))
    assert torch.equal(losses, method.losses(model, with_condition(trainer, 1)))
    learn(trainer, 2)
    first, other = (method.losses(model, with_condition(trainer, seed)) for seed in (0, 1))
    assert (first - other).abs().max() > 1e-6


METHOD = (
    "training.method=controlnet",
    "training.controlnet.kind=lora",
    "training.lora.rank=4",
    "evaluate.judge=null",
    "sample.pictures=params",
    "sample.prompts=[{prompt: two, width: 32, height: 32, condition_of: a.png}]",
)


def test_the_preset_is_accepted():
    given = settled(EXPERIMENTS / "digits_flux2.yaml", METHOD).training
    assert given.is_control_lora
    assert not settled(EXPERIMENTS / "gym_flux2_controlnet.yaml").training.is_control_lora
    assert settled(EXPERIMENTS / "gym_flux2_control_lora.yaml").training.is_control_lora


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("training.lora=null", "training.lora is null, but training.controlnet.kind 'lora' reads"),
        ("training.controlnet.kind=network", "training.lora is given, but training.method 'contr"),
        ("training.controlnet.conditioning_scale=0.5", "0.5 given, which only kind 'network' read"),
        ("training.controlnet.num_layers=2", "num_layers: 2 given, .*: set null"),
        ("training.lora.use_dora=true", "use_dora: True given, but a Control-LoRA has plain adap"),
        ("training.lora.kind=loha", "kind: 'loha' given, but a Control-LoRA has plain .* set lora"),
        ("export.merge=true", "export.merge: true given, but a Control-LoRA is exported as one fi"),
        ("export.lora_formats=[comfyui]", "only 'diffusers' holds the norms of a Control-LoRA"),
    ],
)
def test_what_a_control_lora_cannot_use_is_refused_before_anything_runs(given, message):
    with pytest.raises(ValueError, match=message):
        settled(EXPERIMENTS / "digits_flux2.yaml", [*METHOD, given])


@pytest.mark.parametrize("experiment", ["digits_sdxl", "digits_sd35"])
def test_a_family_without_channels_for_pictures_is_refused(experiment):
    with pytest.raises(ValueError, match="has no channels for a picture: set 'network', or take"):
        settled(EXPERIMENTS / f"{experiment}.yaml", METHOD)
