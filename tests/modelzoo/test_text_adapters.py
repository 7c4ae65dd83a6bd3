"""Adapters in text encoders: rows with gradients, their files, and peft's own forward as oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelzoo.adapters.adapter import Adapter, adapted, scale_adapters
from modelzoo.adapters.attach import attach
from modelzoo.adapters.files import save_adapters
from modelzoo.adapters.pairs import pairs_of, read_pairs, to_diffusers, to_kohya
from modelzoo.adapters.targets import text_patterns
from modelzoo.adapters.text import (
    add_text_adapters,
    load_text_adapters,
    save_text_adapters,
    text_parameters,
)
from modelzoo.adapters.text_pairs import read_text_pairs
from modelzoo.checkpoints.stream import MemorySource
from modelzoo.checkpoints.write import write_safetensors
from modelzoo.text_encoders import load_text_encoders, load_tokenizers, make_text_parts
from modelzoo.text_encoders.live import IDS, MASK, LiveText, load_live_text
from modelzoo.text_encoders.tokenization.parts import text_parts
from tests import toys

LEARNING = ("sdxl", "flux", "sd3")
PROMPTS = ("handwritten digits one", "", "two three")
Base = Callable[[str], Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Give the text half of a family's base, untrained; read only."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            model = dataclasses.asdict(toys.section(family, made[family]))
            make_text_parts(model, toys.CAPTIONS, 0, made[family])
        return made[family]

    return make


def opened(folder: Path, family: str) -> tuple[dict[str, Path], Any]:
    folders = {path.name: path for path in folder.iterdir()}
    return folders, load_tokenizers(family, folders)


def live(folder: Path, family: str, adapter: Adapter | None = None, moved: float = 0.0) -> LiveText:
    folders, tokenizer = opened(folder, family)
    text = load_live_text(family, folders, tokenizer, torch.float32, family == "sdxl").eval()
    if adapter is not None:
        add_text_adapters(text.encoders, adapter, text_patterns(["all-linear"]), 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in text_parameters(text.encoders).values():
            parameter += moved * torch.randn(parameter.shape, generator=generator)
    return text


def conditions(folder: Path, family: str) -> dict[str, Tensor]:
    """Give the rows that the store has of the prompts, and the prompts' tokens."""
    folders, tokenizer = opened(folder, family)
    whole = load_text_encoders(family, folders, tokenizer, torch.float32, family == "sdxl")
    ids, mask = map(torch.tensor, zip(*map(tokenizer.tokens, PROMPTS), strict=True))
    return {**whole.encode_rows(ids, mask), IDS: ids, MASK: mask, "sizes": torch.ones(3, 6)}


LORA = Adapter(rank=2, alpha=3.0)


@pytest.mark.parametrize("family", LEARNING)
def test_live_rows_are_the_stored_ones_bit_for_bit_until_adapters_have_learned(base, family):
    stored = conditions(base(family), family)
    expected = {name: row for name, row in stored.items() if name not in (IDS, MASK)}
    new, trained = live(base(family), family, LORA), live(base(family), family, LORA, 0.3)
    for text in (live(base(family), family), new):
        found = text(stored)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], row) for name, row in expected.items())
    found = trained(stored)
    assert (found["pooled"] - expected["pooled"])[0].abs().max() > 1e-2
    assert torch.equal(found["pooled"][1], expected["pooled"][1]) == (family == "sdxl")  # zeros
    if family != "sdxl":  # T5's half is what the store says
        length = 0 if family == "flux" else 12
        assert torch.equal(found["context"][:, length:], expected["context"][:, length:])
    for part in trained.encoders.values():
        scale_adapters(part, 0)
    found = trained(stored)
    assert all(torch.equal(found[name], row) for name, row in expected.items())


@pytest.mark.parametrize("family", LEARNING)
def test_every_adapter_gets_the_same_gradient_with_layers_computed_anew(base, family):
    stored, gradients = conditions(base(family), family), []
    for checkpointed in (False, True):
        text = live(base(family), family, LORA, 0.3).train()
        text.checkpoint_layers(checkpointed)
        rows = text(stored)
        (rows["context"].square().mean() + rows["pooled"].square().mean()).backward()
        learning = text_parameters(text.encoders)
        assert {p for p in text.parameters() if p.grad is not None} == set(learning.values())
        assert all(p.grad.any() for p in learning.values())
        gradients.append([p.grad for p in learning.values()])
    for plain, anew in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, anew)


def test_the_adapters_of_two_text_encoders_begin_with_other_values(base):
    found = text_parameters(live(base("sd3"), "sd3", LORA).encoders)
    name = "text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    one, other = (found[f"{folder}.{name}"] for folder in ("text_encoder", "text_encoder_2"))
    assert not torch.equal(one, other)
    assert not any("text_projection" in each for each in found)


@pytest.mark.parametrize("use_dora", [False, True])
def test_peft_itself_computes_the_same_with_the_saved_folder(base, tmp_path, use_dora):
    from peft import PeftModel
    from transformers import CLIPTextModelWithProjection

    adapter = dataclasses.replace(LORA, use_dora=use_dora)
    text = live(base("sd3"), "sd3", adapter, 0.3)
    save_text_adapters(text.encoders, tmp_path)
    stored = conditions(base("sd3"), "sd3")
    for folder, ids in zip(text.encoders, stored[IDS].split([12, 12, 10], dim=1), strict=False):
        theirs = CLIPTextModelWithProjection.from_pretrained(base("sd3") / folder)
        theirs = PeftModel.from_pretrained(theirs, str(tmp_path / folder)).eval()
        output = theirs(input_ids=ids, output_hidden_states=True)
        found = text.encoders[folder].encode_rows(ids, torch.ones_like(ids))
        torch.testing.assert_close(found["pooled"], output.text_embeds)
        torch.testing.assert_close(found["context"], output.hidden_states[-2])


def test_a_folder_gives_the_same_rows_again_and_is_refused_by_other_families(base, tmp_path):
    text, stored = live(base("sdxl"), "sdxl", LORA, 0.3), conditions(base("sdxl"), "sdxl")
    save_adapters(text.encoders["text_encoder"], tmp_path)  # where the denoiser's are
    save_text_adapters(text.encoders, tmp_path)
    loaded = live(base("sdxl"), "sdxl")
    load_text_adapters(loaded.encoders, tmp_path)
    assert torch.equal(loaded(stored)["context"], text(stored)["context"])
    with pytest.raises(ValueError, match=r"adapters of \['text_encoder_2'\], but those that learn"):
        load_text_adapters(live(base("flux"), "flux").encoders, tmp_path)


def written(text: LiveText, form: str, path: Path) -> Path:
    pairs = {folder: pairs_of(part) for folder, part in text.encoders.items()}
    if form == "kohya":
        tensors = to_kohya({}, torch.nn.Module(), "sdxl", pairs)
    else:
        tensors = {}
        for folder, own in pairs.items():
            tensors |= to_diffusers(own, folder)
    write_safetensors(MemorySource(tensors, str(path), "LoRA"), path, {"format": "pt"})
    return path


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
@pytest.mark.parametrize("family", LEARNING)
def test_pairs_written_in_a_form_give_the_same_rows_when_read(base, tmp_path, family, form):
    adapter = dataclasses.replace(LORA, ranks={"fc1": 3})
    text, stored = live(base(family), family, adapter, 0.3), conditions(base(family), family)
    file = written(text, form, tmp_path / "a.safetensors")
    plain = live(base(family), family)
    pairs = read_text_pairs(file, plain.encoders, family)
    for folder, own in pairs.items():
        assert own.keys() == adapted(text.encoders[folder]).keys()
        attach(plain.encoders[folder], own)
    for name, row in plain(stored).items():
        torch.testing.assert_close(row, text(stored)[name], atol=1e-5, rtol=1e-5)


def test_layers_that_no_row_depends_on_are_passed_over_and_others_refused(base, tmp_path):
    def given(name: str) -> Path:
        tensors = {f"{name}.lora_A.weight": torch.ones(2, 16)}
        tensors |= {f"{name}.lora_B.weight": torch.ones(16, 2)}
        path = tmp_path / "a.safetensors"
        write_safetensors(MemorySource(tensors, str(path), "LoRA"), path, {"format": "pt"})
        return path

    parts = live(base("sdxl"), "sdxl").encoders
    layer = "text_encoder.text_model.encoder.layers.{}.self_attn.q_proj"
    assert read_text_pairs(given(layer.format(0)), parts, "sdxl")["text_encoder"]
    assert not read_text_pairs(given(layer.format(1)), parts, "sdxl")["text_encoder"]  # of two
    bare = "text_encoder.encoder.layers.0.self_attn.q_proj"  # as transformers 5 names them
    assert read_text_pairs(given(bare), parts, "sdxl")["text_encoder"]
    with pytest.raises(ValueError, match="is of a text encoder that has no adapters here"):
        read_text_pairs(given("lora_te3_encoder_block_0"), parts, "sdxl")
    with pytest.raises(ValueError, match="is no layer of the text_encoder_2 of"):
        read_text_pairs(given("text_encoder_2.text_projection"), parts, "sdxl")
    with pytest.raises(ValueError, match=r"set training\.lora\.train_text_encoder to"):
        read_pairs(given(bare), torch.nn.Module(), "sdxl")


def test_only_the_clips_learn():
    learning = {f: [p.encoder for p in text_parts(f) if p.learns] for f in (*LEARNING, "flux2")}
    both = ["text_encoder", "text_encoder_2"]
    assert learning == {"sdxl": both, "sd3": both, "flux": ["text_encoder"], "flux2": []}
