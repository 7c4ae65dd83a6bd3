from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modelzoo.flux.v1.latents import pack
from stages.base_record import read_record
from stages.export import stage
from stages.generation import (
    Sampling,
    base_records,
    generate,
    load_generator,
    starting_noise,
)
from stages.params.outputs import Export, Prompt
from stages.params.tracking import Tracking

WEIGHTS = "diffusion_pytorch_model.safetensors"
DESTINATION = Path("outputs/toy")


def run(destination: Path = DESTINATION, family: str = "flux2") -> None:
    no_tracking = Tracking(mlflow=False)
    stage.run(stage.Params(family, "float32", Export(), str(destination), 1, no_tracking))


def digest_of_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
    return digest.hexdigest()


def edit_weights(folder: Path, change: object) -> None:
    state = load_file(folder / WEIGHTS)
    state = change(state)  # type: ignore[operator]
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def sidecar() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((DESTINATION / "birth.json").read_text())
    return record


FOLDERS = {
    "sdxl": {"unet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"},
    "flux": {"transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"},
    "flux2": {"transformer", "text_encoder", "tokenizer"},
    "sd3": {
        "transformer",
        *("text_encoder", "text_encoder_2", "text_encoder_3"),
        *("tokenizer", "tokenizer_2", "tokenizer_3"),
    },
}


@pytest.mark.parametrize("family", FOLDERS)
def test_the_export_is_complete_and_proven(
    data_of: Callable[[str], Path], family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_of(family)
    capsys.readouterr()
    run(family=family)
    folders = {path.name for path in (data / "export").iterdir()}
    parts = {*FOLDERS[family], "vae", "scheduler"}
    assert folders == {*parts, "model_index.json"}
    proof = json.loads((data / "export_proof.json").read_text())
    assert proof["largest_difference"] == {"prediction": 0.0, "picture": 0.0}
    assert 0 < proof["tensors_changed_by_training"] <= proof["tensors"]
    assert proof["digests"].keys() == parts
    assert capsys.readouterr().out == "exported and proven: outputs/toy\n"


def test_the_header_names_what_came_before_and_nothing_that_comes_after(data: Path) -> None:
    run()
    with safe_open(data / "export" / "transformer" / WEIGHTS, framework="pt") as file:
        header = file.metadata()
    assert header["format"] == "pt"
    assert header["diffbase.training_fingerprint"] == "f" * 64
    dataset = hashlib.sha256((data / "images.parquet").read_bytes()).hexdigest()
    assert header["diffbase.dataset_digest"] == dataset
    vae = read_record(data / "base" / "vae.json").parts["vae"]
    assert header["diffbase.base.vae"] == vae.digest
    assert not any(word in name for name in header for word in ("commit", "run", "lock"))


def test_the_tracked_folder_has_the_same_bytes_each_time(data: Path) -> None:
    run()
    first = digest_of_folder(data / "export")
    Path("dvc.lock").write_text("schema: '2.0'\n")
    run()
    assert digest_of_folder(data / "export") == first
    assert not (data / "export" / "birth.json").exists()


def test_the_users_copy_says_what_it_was_born_from(data: Path) -> None:
    for command in (
        ["git", "init", "-q"],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(command, check=True)
    Path("dvc.lock").write_text("schema: '2.0'\n")
    run()
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    birth = sidecar()
    assert birth["git_commit"] == head.stdout.strip()
    assert birth["git_dirty"] is True
    assert birth["dvc_lock_sha256"] == hashlib.sha256(b"schema: '2.0'\n").hexdigest()
    assert birth["mlflow_run_id"] is None
    for name in birth["files"]:
        assert (DESTINATION / name).read_bytes() == (data / "export" / name).read_bytes()


def test_the_users_copy_is_replaced_by_a_later_export(data: Path) -> None:
    run()
    edit_weights(data / "train" / "weights", lambda s: {k: v + 0.1 for k, v in s.items()})
    run()
    exported, copied = (p / "transformer" / WEIGHTS for p in (data / "export", DESTINATION))
    assert copied.read_bytes() == exported.read_bytes()
    assert [path.name for path in DESTINATION.parent.iterdir()] == ["toy"]


@pytest.mark.parametrize("in_our_folder", [False, True])
def test_what_others_wrote_is_never_replaced(data: Path, in_our_folder: bool) -> None:
    if in_our_folder:
        run()
        (data / "export_proof.json").unlink()
    DESTINATION.mkdir(parents=True, exist_ok=True)
    (DESTINATION / "thesis.txt").write_text("ten years of work")
    with pytest.raises(
        ValueError, match=r"experiment.output_dir: .*did not write \('thesis.txt'\)"
    ):
        run()
    assert (DESTINATION / "thesis.txt").read_text() == "ten years of work"
    assert not (data / "export_proof.json").exists()


@pytest.mark.parametrize("inside", ["data", "data/export", "data/export/copy", "."])
def test_the_users_copy_lies_outside_of_the_tracked_folder(data: Path, inside: str) -> None:
    with pytest.raises(ValueError, match="overlaps data/export"):
        run(Path(inside))


def test_untrained_weights_are_not_exported(data: Path) -> None:
    base = data / "base" / "model" / "transformer" / WEIGHTS
    (data / "train" / "weights" / WEIGHTS).write_bytes(base.read_bytes())
    with pytest.raises(ValueError, match="nothing was trained"):
        run()
    assert not (data / "export").exists()
    assert not DESTINATION.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {k: v for k, v in s.items() if k != "proj_out.weight"},
        lambda s: {**s, "surplus.weight": torch.ones(1)},
    ],
    ids=["missing", "surplus"],
)
def test_every_key_of_the_export_is_used(data: Path, change: object) -> None:
    edit_weights(data / "train" / "weights", change)
    with pytest.raises(ValueError, match="does not fit Flux2Transformer2DModel"):
        run()
    assert not (data / "export").exists()


def test_a_base_that_has_changed_since_is_refused(data: Path) -> None:
    edit_weights(data / "base" / "model" / "vae", lambda s: {k: v * 2 for k, v in s.items()})
    with pytest.raises(ValueError, match=r"model/vae has changed since"):
        run()


def test_weights_that_are_not_finite_are_not_exported(data: Path) -> None:
    nan = float("nan")
    edit_weights(data / "train" / "weights", lambda s: {k: v * nan for k, v in s.items()})
    with pytest.raises(ValueError, match="another prediction"):
        run()


def test_a_second_text_encoder_that_has_changed_since_is_refused(
    data_of: Callable[[str], Path],
) -> None:
    folder = data_of("sdxl") / "base" / "model" / "text_encoder_2"
    state = load_file(folder / "model.safetensors")
    save_file({k: v * 2 for k, v in state.items()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model/text_encoder_2 has changed since"):
        run(family="sdxl")


CFG = 2.0
SIZE = {"height": 16, "width": 32}


def noise_for(family: str) -> torch.Tensor:
    """Give our starting noise as the family's pipeline takes it."""
    if family == "flux2":
        return starting_noise(7, 0, (16, 4, 8))[None]
    noise = starting_noise(7, 0, (4, 8, 16))[None]
    return pack(noise) if family == "flux" else noise


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "sdxl": ("StableDiffusionXLPipeline", {"guidance_scale": CFG}),
    "flux": (
        "FluxPipeline",
        {"true_cfg_scale": CFG, "negative_prompt": "", "max_sequence_length": 10},
    ),
    "flux2": (
        "Flux2KleinPipeline",
        {
            "guidance_scale": CFG,
            "max_sequence_length": 32,
            "text_encoder_out_layers": (1, 2, 3),
        },
    ),
    "sd3": ("StableDiffusion3Pipeline", {"guidance_scale": CFG, "max_sequence_length": 10}),
}


@pytest.mark.parametrize("family", ASKED)
def test_diffusers_draws_the_same_picture_from_the_export(
    data_of: Callable[[str], Path], family: str
) -> None:
    import diffusers

    data = data_of(family)
    run(family=family)
    generator = load_generator(
        family, data / "train" / "weights", base_records(data / "base"), "float32"
    )
    prompt = Prompt("handwritten digits one", SIZE["width"], SIZE["height"])
    ours = generate(generator, [prompt], Sampling(3, CFG, seed=7), "test")[0]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(DESTINATION, local_files_only=True)
    name, asked = ASKED[family]
    assert type(pipeline).__name__ == name
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=prompt.prompt,
        num_inference_steps=3,
        latents=noise_for(family),
        output_type="np",
        **SIZE,
        **asked,
    ).images[0]
    assert theirs.std() > 0.02  # a picture, not a constant
    assert np.abs(ours / 255 - theirs).max() <= 0.5 / 255 + 1e-3
