"""Training on a packed base: adapters and ControlNets learn, resume exactly, and load unpacked."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelzoo.quantised.kinds import KINDS
from modelzoo.quantised.linear import QuantisedLinear
from stages.base_record import read_record
from stages.params.resolve import settled
from stages.train.stage import create_trainer, run, weights_fingerprint
from stages.trained import load_trained
from tests.train.test_controlnet import trainer_of
from tests.train.test_dreambooth import PREDICTION
from tests.train.test_lora import awake, lora

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(make_workspace):
    return awake(make_workspace())


def gain(workspace):
    summary = json.loads((workspace.output / "summary.json").read_text())
    return summary["val_loss_base"] - summary["val_loss"], summary["val_loss_base"]


def test_adapters_on_each_kind_gain_on_it_and_on_the_whole_base(workspace):
    steps = {"steps": 12, "caption_dropout": 0.0, "learning_rate": 2e-2}
    trainer = create_trainer(lora(workspace, **steps))
    trainer.fit()
    wanted, base = gain(workspace)
    record = read_record(Path("data/base/denoiser.json"))
    for kind in KINDS:
        run(lora(workspace, **steps, base_quantization=kind))
        found, of_packed = gain(workspace)
        assert found == pytest.approx(wanted, rel=0.4)
        assert of_packed != base
        loaded = load_trained("flux2", workspace.output / "weights", record, torch.float32)
        layers = loaded.denoiser.network.modules()
        assert not any(isinstance(layer, QuantisedLinear) for layer in layers)
        trainer.state.model.denoiser = loaded.denoiser
        on_whole = base - trainer.validation.measure(trainer.state).loss
        assert on_whole == pytest.approx(wanted, rel=0.4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_on_a_packed_base_ends_with_the_same_bytes(workspace, monkeypatch, kind):
    params = lora(workspace, steps=6, base_quantization=kind)
    params = replace(params, dtype="bfloat16", gradient_checkpointing=True)
    with monkeypatch.context() as patch:
        patch.setattr("stages.train.checkpoints.Checkpoints.finish", lambda self: None)
        run(params)
    expected = (workspace.output / "weights/adapter_model.safetensors").read_bytes()
    shutil.rmtree(workspace.output)
    (last,) = workspace.store.glob("checkpoints/*/step-00000006")
    shutil.rmtree(last)  # as if it had been killed after step 3
    run(params)
    assert (workspace.output / "weights/adapter_model.safetensors").read_bytes() == expected
    whole = replace(params, training=replace(params.training, base_quantization=None))
    assert weights_fingerprint(whole) != weights_fingerprint(params)


def test_a_controlnet_beside_a_packed_base_begins_with_the_whole_weights(make_workspace):
    workspace = awake(make_workspace(num_images=6, num_validation=1, has_conditions=True))
    given = {"method": "controlnet", "controlnet": {}, "steps": 2}
    found = []
    for kind in (None, "nf4"):
        trainer = create_trainer(workspace.params(**given, base_quantization=kind))
        found.append({k: t.clone() for k, t in trainer.state.network.state_dict().items()})
    whole, beside_packed = found
    assert whole.keys() == beside_packed.keys()
    assert all(torch.equal(tensor, beside_packed[name]) for name, tensor in whole.items())
    trainer.fit()
    trained = load_file(workspace.output / "weights/diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in trained.items())


def test_a_control_lora_widens_and_learns_on_a_packed_base(make_workspace):
    workspace = make_workspace(num_images=6, num_validation=1, has_conditions=True)
    learning = {"lora": {"rank": 2, "target_modules": ["all-linear"]}, "steps": 2}
    trainer = trainer_of(workspace, {"kind": "lora"}, base_quantization="int8", **learning)
    trainer.fit()
    layer = trainer.state.network.get_submodule("transformer_blocks.0.attn.to_q.base_layer")
    assert isinstance(layer, QuantisedLinear)


def test_dreambooth_with_lora_is_held_to_the_packed_base(make_workspace):
    workspace = awake(make_workspace())
    given = {"method": "dreambooth", "dreambooth": PREDICTION, "lora": {"rank": 2}, "steps": 2}
    trainer = create_trainer(workspace.params(**given, base_quantization="fp8"))
    (of_class,) = [batch for batch in trainer.batches.at(0) if batch.prior is not None]
    assert trainer.method.losses(trainer.state.model, of_class).max() == 0  # it is the base yet
    trainer.fit()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["training.method=full_finetune"], "training.method 'full_finetune' trains the base's"),
        (
            [
                "training.method=dreambooth",
                "training.dreambooth={instance_prompt: sks digit, class_prompt: digit}",
            ],
            "by training.dreambooth.train: set it to null, or train 'lora'",
        ),
    ],
)
def test_a_packed_base_that_should_learn_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        settled(
            ROOT / "params/experiments/digits_flux2.yaml",
            [*given, "training.base_quantization=int8"],
        )


def test_nf4_without_its_library_is_refused(monkeypatch):
    monkeypatch.setattr("stages.params.rules_quantised.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'nf4' given, but bitsandbytes is not installed: pip"):
        settled(ROOT / "params/experiments/gym_flux2_lora.yaml", ["training.base_quantization=nf4"])
