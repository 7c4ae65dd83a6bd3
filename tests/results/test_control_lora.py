"""Pictures of a Control-LoRA follow a picture, are judged, exported, and drawn by diffusers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modelzoo.adapters import targets
from modelzoo.adapters.adapter import Adapter, adapter_parameters, add_adapters
from modelzoo.control_lora import SEEING, free_norms, norms, save_control_lora
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from modelzoo.flux.components.editing import widened_for_control
from stages import evaluate
from stages.base_record import read_record
from stages.export import stage as export
from stages.generation import Sampling, base_records, generate, load_generator
from stages.params.methods import Controlnet
from stages.params.outputs import Evaluate, Export, Prompt
from stages.params.tracking import Tracking
from tests.results.test_controlnet import disc, questions
from tests.results.test_export import SIZE, noise_for

FLUX = ("flux", "flux2")
FILE = "pytorch_lora_weights.safetensors"
SECTION = Controlnet("canny", "lora")


def train(data: Path, family: str, *, moved: float = 0.3, sees: bool = True) -> None:
    """Put a Control-LoRA in the place of what training leaves, on a base of which nothing is zero.

    Args:
        data: The workspace's.
        family: Of the base.
        moved: By how much the adapters and norms are away from where they begin.
        sees: Whether the picture counts.
    """
    kind = FAMILIES[family]
    folder = read_record(data / "base/denoiser.json").folders[kind.folder]
    denoiser = load_denoiser(kind.denoiser, folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_denoiser(denoiser, folder)
    wide = widened_for_control(denoiser)
    chosen = [*targets.patterns(family, ["all-linear"]), SEEING]
    add_adapters(wide.network, Adapter(rank=3, alpha=2.0), chosen, 1)
    free_norms(wide.network)
    learned = {**adapter_parameters(wide.network), **norms(wide.network)}
    with torch.no_grad():
        for parameter in learned.values():
            parameter += moved * torch.randn(parameter.shape, generator=generator)
        if not sees:
            learned[f"{SEEING}.lora_A.weight"][:, denoiser.config.in_channels :] = 0
    shutil.rmtree(data / "train/weights")
    save_control_lora(wide.network, data / "train/weights")
    summary = json.loads((data / "train/summary.json").read_text())
    section = {"kind": "lora", "conditioning_type": "canny"}
    (data / "train/summary.json").write_text(json.dumps({**summary, "controlnet": section}))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of 32x16 pixels."""
    folder = tmp_path / "given"
    folder.mkdir()
    disc(4).save(folder / "left.png")
    disc(20).save(folder / "right.png")
    return folder


def run(family: str) -> dict[str, Any]:
    tracking = Tracking(mlflow=False)
    export.run(export.Params(family, "float32", Export(), "outputs/toy", 1, tracking))
    proof: dict[str, Any] = json.loads(Path("data/export_proof.json").read_text())
    return proof


@pytest.mark.parametrize("family", FLUX)
def test_it_follows_pictures_and_leaves_as_one_file_that_is_proven(
    data_of: Callable[[str], Path], pictures: Path, family: str
) -> None:
    data = data_of(family)
    train(data, family)
    generator = load_generator(
        family, data / "train/weights", base_records(data / "base"), "float32"
    )
    sampling = Sampling(steps=2, cfg_scale=2.0, seed=3, controlnet=SECTION)
    prompts = [Prompt("two", 32, 16, condition_of=name) for name in ("left.png", "right.png")]
    one, other = generate(generator, prompts, sampling, "p", pictures, places=[0, 0])
    assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="this prompt names no picture to follow: give condition"):
        generate(generator, [Prompt("two", 32, 16)], sampling, "p", pictures)

    proof = run(family)
    assert [path.name for path in (data / "export").iterdir()] == [FILE]
    assert proof["format"] == "control_lora"
    assert proof["largest_difference"]["diffusers"] < 1e-5
    assert proof["largest_change_of_a_prediction"] > 1e-4
    tensors = load_file(data / "export" / FILE)
    width = tensors["transformer.x_embedder.lora_A.weight"].shape[1]
    assert width == generator.denoiser.config.in_channels == 2 * 16
    assert "transformer.transformer_blocks.0.attn.norm_added_k.weight" in tensors


def test_edges_are_judged_beside_those_of_the_base_alone(data: Path, pictures: Path) -> None:
    train(data, "flux2")
    questions(pictures)
    params = evaluate.Params(
        name="toy",
        family="flux2",
        dtype="float32",
        evaluate=Evaluate("edges", str(pictures), steps=1, cfg_scale=1.0),
        steps=1,
        cfg_scale=1.0,
        guidance=None,
        shift=None,
        sampler=None,
        keep_unmasked="pixels",
        threads=1,
        tracking=Tracking(mlflow=False),
    )
    evaluate.run(params)
    metrics = json.loads(Path("data/evaluate/metrics.json").read_text())
    gain = metrics["edge_agreement"] - metrics["edge_agreement_without_control"]
    assert metrics["edge_agreement_gain"] == pytest.approx(gain, abs=1e-5)


def test_what_has_learnt_nothing_or_sees_nothing_is_not_exported(data: Path) -> None:
    train(data, "flux2", moved=0.0)
    with pytest.raises(ValueError, match="nothing was trained: all 15 adapters change nothing"):
        run("flux2")
    train(data, "flux2", sees=False)
    with pytest.raises(ValueError, match="the picture that is followed changes no prediction"):
        run("flux2")
    assert not (data / "export").exists()


def test_diffusers_draws_the_same_picture_from_the_exported_file(
    data_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    data = data_of("flux")
    train(data, "flux")
    run("flux")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8))
    picture.resize((SIZE["width"], SIZE["height"])).save(tmp_path / "followed.png")
    generator = load_generator(
        "flux", data / "train/weights", base_records(data / "base"), "float32"
    )
    prompt = Prompt(
        "handwritten digits one", SIZE["width"], SIZE["height"], condition="followed.png"
    )
    sampling = Sampling(3, cfg_scale=1.0, seed=7, guidance=10.0, controlnet=SECTION)
    (ours,) = generate(generator, [prompt], sampling, "test", tmp_path)

    monkeypatch.setattr(  # ours follows the posterior's mean
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean
    )
    pipeline = diffusers.FluxControlPipeline.from_pretrained(
        data / "base/model", local_files_only=True
    )
    pipeline.load_lora_weights("outputs/toy", weight_name=FILE)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=prompt.prompt,
        control_image=Image.open(tmp_path / "followed.png"),
        num_inference_steps=3,
        latents=noise_for("flux"),
        output_type="np",
        guidance_scale=10.0,
        max_sequence_length=10,
        **SIZE,
    ).images[0]
    assert theirs.std() > 0.02
    assert np.abs(ours / 255 - theirs).max() <= 0.5 / 255 + 1e-3
