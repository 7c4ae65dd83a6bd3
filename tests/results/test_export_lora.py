"""Adapters leave as files that other programs load, each proven against the trained adapters."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from modelzoo.adapters import targets
from modelzoo.adapters.adapter import Adapter, adapter_parameters, add_adapters
from modelzoo.adapters.files import is_adapter, save_adapters
from modelzoo.adapters.text import add_text_adapters, save_text_adapters, text_parameters
from modelzoo.denoiser import load_denoiser
from modelzoo.families import FAMILIES
from modelzoo.text_encoders.live import load_live_text
from stages.export import stage
from stages.generation import Sampling, base_records, generate, load_generator
from stages.params.outputs import Export, Prompt
from stages.params.tracking import Tracking
from stages.tokenizers import open_tokenizers
from tests.results.test_export import ASKED, CFG, SIZE, noise_for

DESTINATION = Path("outputs/toy")
DIFFUSERS, COMFYUI = "pytorch_lora_weights.safetensors", "comfyui_lora.safetensors"
FILES = {"diffusers": DIFFUSERS, "comfyui": COMFYUI}
PROMPT = "handwritten digits one"


def run(family: str = "flux2", dtype: str = "float32", **export: Any) -> dict[str, Any]:
    settings = Export(**export)
    tracking = Tracking(mlflow=False)
    stage.run(stage.Params(family, dtype, settings, str(DESTINATION), 1, tracking))
    proof: dict[str, Any] = json.loads(Path("data/export_proof.json").read_text())
    return proof


def train(data: Path, family: str = "flux2", moved: float = 0.3, **settings: Any) -> None:
    """Let a LoRA stand where the trained weights are; what is there becomes the base.

    A new base's gates are zero, so that no block of it counts.
    """
    kind = FAMILIES[family]
    base = data / "base" / "model" / kind.folder
    if not is_adapter(data / "train" / "weights"):
        shutil.rmtree(base)
        shutil.move(data / "train" / "weights", base)
    denoiser = load_denoiser(kind.denoiser, base)
    adapter = Adapter(**{"rank": 2, "alpha": 3.0, **settings})
    add_adapters(denoiser.network, adapter, targets.patterns(family, ["all-linear"]), 1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(denoiser.network).values():
            parameter += moved * torch.randn(parameter.shape, generator=generator)
    save_adapters(denoiser.network, data / "train" / "weights")


def train_text(data: Path, family: str, **settings: Any) -> None:
    """Let text encoders have learned beside the denoiser."""
    records = base_records(data / "base")
    tokenizer = open_tokenizers(family, records["tokenizer"])
    text = load_live_text(family, records["text_encoder"].folders, tokenizer, torch.float32)
    adapter = Adapter(**{"rank": 2, "alpha": 3.0, **settings})
    add_text_adapters(text.encoders, adapter, targets.text_patterns(["all-linear"]), 1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in text_parameters(text.encoders).values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    save_text_adapters(text.encoders, data / "train" / "weights")


def encoded(data: Path, family: str) -> dict[str, Tensor]:
    """Encode a prompt with what was trained."""
    records = base_records(data / "base")
    generator = load_generator(family, data / "train" / "weights", records, "float32")
    return generator.conditions([PROMPT], 16, 16)


def encoded_by(pipeline: Any, family: str) -> tuple[Tensor, Tensor]:
    """Let diffusers encode it: context and pooled."""
    asked: dict[str, Any] = {"prompt": PROMPT, "prompt_2": None, "device": "cpu"}
    if family != "flux":
        asked["do_classifier_free_guidance"] = False
    if family == "sd3":
        asked["prompt_3"] = None
    if family != "sdxl":
        asked["max_sequence_length"] = 10
    with torch.no_grad():
        context, pooled, *more = pipeline.encode_prompt(**asked)
    return context, pooled if family == "flux" else more[0]


READ_BY_DIFFUSERS = [
    *((family, "diffusers", False) for family in ("sdxl", "flux", "sd3")),
    ("sdxl", "comfyui", False),
    ("sdxl", "diffusers", True),
]


@pytest.mark.parametrize(("family", "form", "use_dora"), READ_BY_DIFFUSERS)
def test_diffusers_encodes_a_prompt_the_same_with_the_exported_text_adapters(
    data_of: Callable[[str], Path], family: str, form: str, use_dora: bool
) -> None:
    import diffusers

    data = data_of(family)
    train(data, family, use_dora=use_dora)
    untrained = encoded(data, family)
    train_text(data, family, use_dora=use_dora)
    proof = run(family, lora_formats=[form])
    assert proof["adapters_changed_by_training"] == proof["adapters"]
    ours = encoded(data, family)
    assert (ours["pooled"] - untrained["pooled"]).abs().max() > 1e-2
    base = data / "base" / "model"
    pipeline = diffusers.DiffusionPipeline.from_pretrained(base, local_files_only=True)
    pipeline.load_lora_weights(DESTINATION, weight_name=FILES[form])
    context, pooled = encoded_by(pipeline, family)
    torch.testing.assert_close(ours["context"], context, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours["pooled"], pooled, atol=1e-5, rtol=1e-5)


def test_text_adapters_leave_in_folders_of_peft_too(data_of: Callable[[str], Path]) -> None:
    data = data_of("sdxl")
    train(data, "sdxl", kind="lokr")
    train_text(data, "sdxl", kind="lokr")
    proof = run("sdxl")
    assert set(proof["digests"]) == {
        f"{folder}{name}"
        for folder in ("", "text_encoder/", "text_encoder_2/")
        for name in ("adapter_config.json", "adapter_model.safetensors")
    }


def test_merged_text_adapters_are_in_the_weights_of_the_text_encoders(
    data_of: Callable[[str], Path],
) -> None:
    import diffusers

    data = data_of("sdxl")
    train(data, "sdxl")
    train_text(data, "sdxl")
    proof = run("sdxl", merge=True)
    assert proof["largest_difference"]["prediction"] == 0.0
    pipeline = diffusers.DiffusionPipeline.from_pretrained(DESTINATION, local_files_only=True)
    context, pooled = encoded_by(pipeline, "sdxl")
    ours = encoded(data, "sdxl")
    torch.testing.assert_close(ours["context"], context, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours["pooled"], pooled, atol=1e-4, rtol=1e-4)
    old, new = (
        load_file(folder / "text_encoder/model.safetensors")
        for folder in (data / "base" / "model", DESTINATION)
    )
    changed = {name for name, tensor in new.items() if not torch.equal(tensor, old[name])}
    assert changed
    assert all(name.endswith(("proj.weight", "fc1.weight", "fc2.weight")) for name in changed)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_is_exported_in_both_forms_and_proven(
    data_of: Callable[[str], Path], family: str
) -> None:
    data = data_of(family)
    train(data, family)
    proof = run(family)
    assert {path.name for path in (data / "export").iterdir()} == {DIFFUSERS, COMFYUI}
    assert proof["largest_difference"].keys() == {"diffusers", "comfyui"}
    assert all(0 <= value < 1e-5 for value in proof["largest_difference"].values())
    assert proof["adapters_changed_by_training"] == proof["adapters"]
    assert (DESTINATION / COMFYUI).read_bytes() == (data / "export" / COMFYUI).read_bytes()


def test_the_files_have_the_same_bytes_each_time_and_name_what_came_before(data: Path) -> None:
    train(data)
    run()
    first = {path.name: path.read_bytes() for path in (data / "export").iterdir()}
    run()
    assert {path.name: path.read_bytes() for path in (data / "export").iterdir()} == first
    for name in first:
        with safe_open(data / "export" / name, framework="pt") as file:
            header = file.metadata()
        assert header["diffbase.training_fingerprint"] == "f" * 64
        assert header["diffbase.base.transformer"]
        dataset = hashlib.sha256((data / "images.parquet").read_bytes()).hexdigest()
        assert header["diffbase.dataset_digest"] == dataset


def test_untrained_adapters_are_not_exported(data: Path) -> None:
    train(data, moved=0.0)
    with pytest.raises(ValueError, match="nothing was trained: all 14 adapters change nothing"):
        run()
    assert not (data / "export").exists()
    assert not DESTINATION.exists()


def test_a_form_that_predicts_something_else_is_not_exported(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data)
    written = stage.export_adapters.__globals__["to_kohya"]

    def broken(*arguments: Any) -> Any:
        tensors = written(*arguments)
        name = next(name for name in tensors if name.endswith(".alpha"))
        return {**tensors, name: 2 * tensors[name]}

    monkeypatch.setattr("stages.export.adapters.to_kohya", broken)
    with pytest.raises(ValueError, match="the form 'comfyui' gives another prediction"):
        run()
    assert not (data / "export").exists()


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({"use_dora": True}, {DIFFUSERS}),
        ({"kind": "lokr"}, {"adapter_config.json", "adapter_model.safetensors"}),
        ({"kind": "loha"}, {"adapter_config.json", "adapter_model.safetensors"}),
    ],
)
def test_other_kinds_leave_in_the_forms_that_hold_them(
    data: Path, settings: dict[str, Any], files: set[str]
) -> None:
    train(data, **settings)
    run()
    assert {path.name for path in (data / "export").iterdir()} == files


def test_dora_is_refused_where_programs_read_it_in_different_ways(data: Path) -> None:
    train(data, use_dora=True)
    with pytest.raises(ValueError, match="'comfyui' cannot hold DoRA"):
        run(lora_formats=["comfyui"])


def test_adapters_of_a_bfloat16_base_are_proven_too(data: Path) -> None:
    train(data)
    proof = run(dtype="bfloat16")
    assert proof["largest_difference"]["diffusers"] < 0.1
    assert {t.dtype for t in load_file(data / "export" / DIFFUSERS).values()} == {torch.float32}


@pytest.mark.parametrize("settings", [{}, {"kind": "lokr"}, {"use_dora": True}])
def test_merged_adapters_are_a_whole_model(data: Path, settings: dict[str, Any]) -> None:
    train(data, **settings)
    proof = run(merge=True)
    assert (data / "export" / "model_index.json").is_file()
    assert proof["largest_difference"]["prediction"] == 0.0
    assert proof["largest_difference"]["merged"] < 1e-4
    assert sorted(path.name for path in data.iterdir() if path.name.startswith("tmp")) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_draws_the_same_picture_with_the_exported_lora(
    data_of: Callable[[str], Path], family: str, tmp_path: Path
) -> None:
    import diffusers

    data = data_of(family)
    run(family=family)
    whole = Path(shutil.copytree(DESTINATION, tmp_path / "whole"))
    train(data, family)
    run(family=family)
    generator = load_generator(
        family, data / "train" / "weights", base_records(data / "base"), "float32"
    )
    prompt = Prompt(PROMPT, SIZE["width"], SIZE["height"])
    ours = generate(generator, [prompt], Sampling(3, CFG, seed=7), "test")[0]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(whole, local_files_only=True)
    pipeline.load_lora_weights(DESTINATION, weight_name=DIFFUSERS)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=prompt.prompt,
        num_inference_steps=3,
        latents=noise_for(family),
        output_type="np",
        **SIZE,
        **ASKED[family][1],
    ).images[0]
    assert theirs.std() > 0.02
    assert np.abs(ours / 255 - theirs).max() <= 0.5 / 255 + 1e-3
