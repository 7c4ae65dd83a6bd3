"""LoRA end to end: adapters learn beside a frozen base, resume exactly, and load again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelzoo.adapters.adapter import adapted, without_adapters
from modelzoo.adapters.found import digest
from modelzoo.adapters.pairs import pairs_of, to_diffusers, to_kohya
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from stages.base_record import read_record
from stages.train.stage import create_trainer, run
from stages.trained import load_trained

LORA = {"method": "lora", "ema": None, "lora": {"rank": 2, "alpha": 4.0}}


def lora(workspace, **changes):
    section = {**LORA["lora"], **changes.pop("lora", {})}
    return workspace.params(**{**LORA, **changes, "lora": section})


@pytest.fixture
def workspace(make_workspace):
    return awake(make_workspace())


def awake(workspace):
    """Let the blocks of the base count: a new network's gates are zero."""
    kind = FAMILIES[workspace.family]
    folder = workspace.root / "data/base/model" / kind.folder
    denoiser = load_denoiser(kind.denoiser, folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_denoiser(denoiser, folder)
    return workspace


def weights(workspace):
    return load_file(workspace.output / "weights/adapter_model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_learns_on_every_family_and_loads_into_its_base(make_workspace, family):
    workspace = awake(make_workspace(family=family))
    objective = {"type": "ddpm"} if family == "sdxl" else {}
    run(lora(workspace, steps=12, caption_dropout=0.0, objective=objective))
    summary = json.loads((workspace.output / "summary.json").read_text())
    assert summary["val_loss"] < summary["val_loss_base"]
    assert summary["num_parameters"] == sum(t.numel() for t in weights(workspace).values())
    base = read_record(Path("data/base/denoiser.json"))
    loaded = load_trained(family, workspace.output / "weights", base, torch.float32)
    assert adapted(loaded.denoiser.network)
    idle = [name for name, tensor in weights(workspace).items() if not tensor.any()]
    assert len(idle) == (family == "sd3")  # the last context of SD3 asks nothing


def test_the_base_is_frozen_and_counts_bit_for_bit_without_adapters(workspace):
    trainer = create_trainer(lora(workspace, steps=3))
    trainer.fit()
    kind = FAMILIES["flux2"]
    folder = read_record(Path("data/base/denoiser.json")).folders[kind.folder]
    base, trained = load_denoiser(kind.denoiser, folder), trainer.state.model.denoiser
    (batch,) = trainer.batches.at(0)

    def predict(denoiser):
        with torch.no_grad():
            return denoiser.predict(batch.noise, batch.t, denoiser.conditioning(batch.conditions))

    expected = predict(base)
    assert not torch.equal(predict(trained), expected)
    with without_adapters(trained.network):
        assert torch.equal(predict(trained), expected)


def test_checkpoints_hold_adapters_alone(workspace):
    params = lora(workspace, steps=3)
    run(params)
    (checkpoint,) = workspace.store.glob("checkpoints/*/step-*/weights.safetensors")
    names = load_file(checkpoint).keys()
    assert {name.rsplit(".", 2)[1] for name in names} == {"lora_A", "lora_B"}


def test_gradient_checkpointing_changes_no_bit(workspace):
    found = []
    for is_on in (False, True):
        run(replace(lora(workspace, steps=3), gradient_checkpointing=is_on))
        found.append(weights(workspace))
    plain, checkpointed = found
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, checkpointed[name], atol=1e-6, rtol=0)
    assert any(tensor.any() for name, tensor in plain.items() if "lora_B" in name)


def test_dropout_is_drawn_anew_at_each_visit_and_the_same_in_each_run(workspace):
    with_dropout = lora(workspace, steps=4, lora={"dropout": 0.5})
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        create_trainer(with_dropout).fit()
        found.append((workspace.output / "weights/adapter_model.safetensors").read_bytes())
        shutil.rmtree(workspace.store / "checkpoints")
    assert found[0] == found[1]
    trainer = create_trainer(with_dropout)
    trainer.state.network.train()
    (batch,), (later,) = trainer.batches.at(0), trainer.batches.at(9)
    for parameter in trainer.state.trainable.values():
        torch.nn.init.constant_(parameter, 0.1)
    losses = trainer.method.losses(trainer.state.model, batch)
    assert torch.equal(losses, trainer.method.losses(trainer.state.model, batch))
    other = replace(batch, visits=tuple(visit + 1 for visit in batch.visits))
    assert not torch.equal(losses, trainer.method.losses(trainer.state.model, other))
    assert later.visits != batch.visits


def test_a_resumed_lora_training_ends_with_the_same_bytes(workspace, monkeypatch):
    params = lora(workspace, steps=6, lora={"dropout": 0.2}, ema={"decay": 0.9})
    with monkeypatch.context() as patch:
        patch.setattr("stages.train.checkpoints.Checkpoints.finish", lambda self: None)
        run(params)
    expected = (workspace.output / "weights/adapter_model.safetensors").read_bytes()
    shutil.rmtree(workspace.output)
    (last,) = workspace.store.glob("checkpoints/*/step-00000006")
    shutil.rmtree(last)  # as if it had been killed after step 3
    run(params)
    assert (workspace.output / "weights/adapter_model.safetensors").read_bytes() == expected


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"kind": "lokr"}, {"kind": "loha"}, {"use_rslora": True}]
)
def test_other_kinds_learn_and_load_too(workspace, changes):
    run(lora(workspace, steps=6, caption_dropout=0.0, ema={"decay": 0.5}, lora=changes))
    summary = json.loads((workspace.output / "summary.json").read_text())
    assert summary["val_loss"] < summary["val_loss_base"]
    base = read_record(Path("data/base/denoiser.json"))
    load_trained("flux2", workspace.output / "weights", base, torch.float32)


def test_a_bfloat16_base_keeps_adapters_in_float32(workspace):
    run(replace(lora(workspace, steps=2), dtype="bfloat16"))
    assert {tensor.dtype for tensor in weights(workspace).values()} == {torch.float32}


def test_a_pattern_that_fits_nothing_is_refused_before_training(workspace):
    with pytest.raises(ValueError, match=r"'to_qq' fits no layer .* nearest are .*'to_q'"):
        run(lora(workspace, lora={"target_modules": ["to_qq"]}))
    assert not workspace.output.exists()


def start(workspace, place, **changes):
    given = {"init_from": str(place), "init_digest": digest(place), **changes}
    return create_trainer(lora(workspace, steps=3, lora=given))


@pytest.mark.parametrize("form", ["ours", "diffusers", "kohya"])
def test_training_goes_on_from_a_lora_in_any_form(workspace, tmp_path, form):
    trainer = create_trainer(lora(workspace, steps=3))
    trainer.fit()
    network = trainer.state.model.denoiser.network
    place = tmp_path / "given.safetensors"
    if form == "ours":
        place = Path(shutil.copytree(workspace.output / "weights", tmp_path / "given"))
    elif form == "diffusers":
        save_file(to_diffusers(pairs_of(network), "transformer"), place)
    else:
        save_file(to_kohya(pairs_of(network), network, "flux2"), place)
    begun = start(workspace, place, alpha=1.0)  # another scale, the same update
    found = pairs_of(begun.state.model.denoiser.network)
    for name, pair in pairs_of(network).items():
        torch.testing.assert_close(found[name].up @ found[name].down, pair.up @ pair.down)


def test_a_lora_of_another_family_rank_or_content_is_refused(workspace, tmp_path):
    place = tmp_path / "given.safetensors"
    name = "transformer.transformer_blocks.0.attn.to_q"
    halves = {"lora_A": torch.ones(2, 16), "lora_B": torch.ones(16, 2)}
    save_file({f"{name}.{half}.weight": tensor for half, tensor in halves.items()}, place)
    start(workspace, place)
    with pytest.raises(ValueError, match=r"has rank 2, but training\.lora\.rank gives it 3"):
        start(workspace, place, rank=3)
    with pytest.raises(ValueError, match=r"target_modules leaves out, such as .*to_q'"):
        start(workspace, place, target_modules=["to_k"])
    with pytest.raises(ValueError, match=r"is not what it was when params\.yaml was written"):
        start(workspace, place, init_digest="0" * 64)
    save_file({"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(2, 4)}, place)
    with pytest.raises(ValueError, match=r"is no layer of model\.type 'flux2': give a LoRA of th"):
        start(workspace, place)
    save_file({"transformer_blocks.0.attn.to_q.weight": torch.ones(2, 4)}, place)
    with pytest.raises(ValueError, match=r"belongs to no LoRA: give a LoRA of 'flux2'"):
        start(workspace, place)
