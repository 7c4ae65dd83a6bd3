"""LoRA in the text encoders too: captions are encoded at each step, by what has been learned."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelzoo.adapters.adapter import adapted
from modelzoo.adapters.found import digest
from modelzoo.adapters.pairs import pairs_of, to_diffusers, to_kohya
from modelzoo.text_encoders import load_text_encoders, make_text_parts
from stages.artifacts import read_table, write_table
from stages.base_record import Part, read_record, write_record
from stages.tokenizers import open_tokenizers
from stages.train.stage import create_trainer, run
from stages.trained import add_trained_text
from stages.training_grids import LearnedRows, known_rows
from tests import toys
from tests.train.test_lora import awake
from tests.train.test_processes import together


@pytest.fixture
def make_text(make_workspace: Callable[..., Any]) -> Callable[..., Any]:
    """Make a workspace whose text encoders are there, and whose rows pass for theirs."""

    def make(family: str = "sdxl", **sizes: Any) -> Any:
        workspace = awake(make_workspace(family=family, **sizes))
        base = workspace.root / "data/base"
        model = dataclasses.asdict(toys.section(family, workspace.root))
        make_text_parts(model, toys.CAPTIONS, 0, base / "model")
        for name, settings in (("text_encoder", {"zero_empty": False}), ("tokenizer", {})):
            folders = sorted((base / "model").glob(f"{name}*"))
            parts = {folder.name: Part(name, folder, folder.name) for folder in folders}
            write_record(base / f"{name}.json", parts, {"lengths": {}, **settings})
        prompts = workspace.root / "data/prompts.parquet"
        made_by = {"encoder": read_record(base / "text_encoder.json").digest, "family": family}
        write_table(prompts, read_table(prompts, "prompts"), "prompts", made_by)
        return workspace

    return make


def text_lora(workspace: Any, **changes: Any) -> Any:
    lora = {"rank": 2, "alpha": 4.0, "train_text_encoder": True, **changes.pop("lora", {})}
    objective = {"type": "ddpm"} if workspace.family == "sdxl" else {}
    changes = {"method": "lora", "ema": None, "objective": objective, **changes}
    return workspace.params(**changes, lora=lora)


def weights(workspace: Any) -> dict[str, torch.Tensor]:
    """Return all that was written, by folder and name."""
    files = (workspace.output / "weights").rglob("*.safetensors")
    return {
        f"{file.parent.name}.{name}": tensor
        for file in sorted(files)
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("family", ["sdxl", "flux", "sd3"])
def test_text_encoders_learn_and_encode_prompts_as_they_were_trained(
    make_text: Callable[..., Any], family: str
) -> None:
    workspace = make_text(family)
    trainer = create_trainer(text_lora(workspace, steps=8, caption_dropout=0.3))
    trainer.fit()
    summary = json.loads((workspace.output / "summary.json").read_text())
    assert summary["val_loss"] < summary["val_loss_base"]
    found = weights(workspace)
    assert summary["num_parameters"] == sum(tensor.numel() for tensor in found.values())
    text = trainer.state.model.text
    moved = {name.split(".")[0] for name, t in found.items() if "lora_B" in name and t.any()}
    assert moved == {"weights", *text.encoders}
    base = Path("data/base")
    record, tokenizer = read_record(base / "text_encoder.json"), base / "tokenizer.json"
    opened = open_tokenizers(family, read_record(tokenizer))
    whole = load_text_encoders(family, record.folders, opened, torch.float32)
    (batch,) = trainer.batches.at(0)
    known = known_rows(whole, opened, toys.CAPTIONS, torch.device("cpu"))
    add_trained_text(family, whole, workspace.output / "weights")
    ids, mask = (batch.conditions[name] for name in ("text_ids", "text_mask"))
    with torch.no_grad():
        live, later = text.eval()(batch.conditions), whole.encode_rows(ids, mask)
    assert torch.equal(live["pooled"], later["pooled"])
    assert not torch.equal(live["pooled"], batch.conditions["pooled"])
    ids, mask = (torch.tensor([each]) for each in opened.tokens(toys.CAPTIONS[1]))
    with torch.no_grad():  # a grid while training
        drawn, later = LearnedRows(known, text).encode_rows(ids, mask), whole.encode_rows(ids, mask)
    assert all(torch.equal(drawn[name], row) for name, row in later.items())
    assert not torch.equal(drawn["pooled"], known.encode_rows(ids, mask)["pooled"])


def test_a_resumed_training_ends_with_the_same_bytes(
    make_text: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_text()
    params = text_lora(workspace, steps=6, lora={"dropout": 0.2}, ema={"decay": 0.9})
    with monkeypatch.context() as patch:
        patch.setattr("stages.train.checkpoints.Checkpoints.finish", lambda self: None)
        run(params)
    expected = weights(workspace)
    shutil.rmtree(workspace.output)
    (last,) = workspace.store.glob("checkpoints/*/step-00000006")
    shutil.rmtree(last)  # as if it had been killed after step 3
    run(replace(params, gradient_checkpointing=False))
    found = weights(workspace)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert found.keys() == expected.keys()


def test_gradient_checkpointing_drops_and_learns_the_same(make_text: Callable[..., Any]) -> None:
    workspace, found = make_text(), []
    for is_on in (False, True):
        params = text_lora(workspace, steps=3, lora={"dropout": 0.2})
        run(replace(params, gradient_checkpointing=is_on))
        found.append(weights(workspace))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], atol=1e-6, rtol=0)


def test_text_has_a_rate_of_its_own_and_ranks_by_pattern(make_text: Callable[..., Any]) -> None:
    workspace = make_text()
    groups = [{"match": r"^text_encoder_2\.", "lr_scale": 1e-6}]
    pattern = [{"modules": r"layers\.0\.self_attn\.q_proj", "rank": 3}]
    params = text_lora(
        workspace, steps=2, optimizer={"groups": groups}, lora={"rank_pattern": pattern}
    )
    run(params)
    found = weights(workspace)
    largest = {
        folder: max(
            float(t.abs().max()) for n, t in found.items() if n.startswith(folder) and "lora_B" in n
        )
        for folder in ("text_encoder.", "text_encoder_2.")
    }
    assert largest["text_encoder_2."] < 1e-6 < 1e-4 < largest["text_encoder."]
    name = "text_encoder.base_model.model.text_model.encoder.layers.0.self_attn.{}_proj"
    ranks = [len(found[f"{name.format(kind)}.lora_A.weight"]) for kind in "qk"]
    assert ranks == [3, 2]
    wrong = [{"modules": "q_projj", "rank": 3}]
    with pytest.raises(ValueError, match="rank_pattern: 'q_projj' fits no layer"):
        create_trainer(text_lora(workspace, lora={"rank_pattern": wrong}))


@pytest.mark.parametrize("form", ["ours", "diffusers", "kohya"])
def test_training_goes_on_from_a_lora_with_text(
    make_text: Callable[..., Any], tmp_path: Path, form: str
) -> None:
    workspace = make_text()
    trainer = create_trainer(text_lora(workspace, steps=3))
    trainer.fit()
    network, text = trainer.state.model.denoiser.network, trainer.state.model.text
    expected = {folder: pairs_of(part) for folder, part in text.encoders.items()}
    place = tmp_path / "given.safetensors"
    if form == "ours":
        place = Path(shutil.copytree(workspace.output / "weights", tmp_path / "given"))
    elif form == "diffusers":
        tensors = to_diffusers(pairs_of(network), "unet")
        for folder, pairs in expected.items():
            tensors |= to_diffusers(pairs, folder)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place)
    else:
        save_file(to_kohya(pairs_of(network), network, "sdxl", expected), place)
    given = {"init_from": str(place), "init_digest": digest(place)}
    begun = create_trainer(text_lora(workspace, steps=3, lora={**given, "alpha": 1.0}))
    for folder, part in begun.state.model.text.encoders.items():
        assert adapted(part).keys() == expected[folder].keys()
        for name, pair in pairs_of(part).items():
            want = expected[folder][name]
            torch.testing.assert_close(pair.up @ pair.down, want.up @ want.down)
    with pytest.raises(ValueError, match=r"set training\.lora\.train_text_encoder to true"):
        create_trainer(text_lora(workspace, lora={**given, "train_text_encoder": False}))
    if form == "ours":
        other = place / "text_encoder/adapter_model.safetensors"
        save_file({n: t + 1 for n, t in load_file(other).items()}, other)
        assert digest(place) != given["init_digest"]


def test_the_base_that_dreambooth_is_held_to_reads_the_stored_rows(
    make_text: Callable[..., Any],
) -> None:
    workspace = make_text()
    prompts = {"instance_prompt": "picture 1", "class_prompt": "picture 0"}
    held = {**prompts, "prior": "prediction", "num_class_images": 0}
    trainer = create_trainer(text_lora(workspace, method="dreambooth", dreambooth=held, steps=2))
    (batch,) = [b for b in trainer.batches.at(0) if b.prior is not None]
    before = trainer.method._base_prediction(trainer.state.model, batch)
    trainer.fit()
    after = trainer.method._base_prediction(trainer.state.model, batch)
    assert torch.equal(before, after)
    assert {"text_encoder", "text_encoder_2"} <= {n.split(".")[0] for n in weights(workspace)}


def test_two_processes_train_text_as_one(make_text: Callable[..., Any], forks: Any) -> None:
    workspace, found = make_text(), []
    for num in (1, 2):
        workspace.tree["hardware"] = {"threads": 1, "processes": num}
        params = text_lora(workspace, steps=3, batch_size=2, gradient_accumulation=2)
        if num == 1:
            run(params)
        else:
            assert together(forks, num, run, params) == [0, 0]
        found.append(weights(workspace))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], atol=1e-4, rtol=0)


def test_a_bfloat16_base_keeps_text_adapters_in_float32(make_text: Callable[..., Any]) -> None:
    workspace = make_text("sd3")
    trainer = create_trainer(replace(text_lora(workspace, steps=2), dtype="bfloat16"))
    trainer.fit()
    found = weights(workspace)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert any(t.any() for n, t in found.items() if n.startswith("text_encoder") and "lora_B" in n)
    rows = trainer.state.model.text(trainer.batches.at(0)[0].conditions)
    halved = rows["pooled"].bfloat16().float()
    assert torch.equal(rows["pooled"], halved), "computed in bfloat16, as the store's rows are"
