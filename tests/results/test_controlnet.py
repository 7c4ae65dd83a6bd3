"""Pictures that follow a picture: sampled, judged by their edges, and exported with proof."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modelzoo.checkpoints.digest import component_digest
from modelzoo.controlnet import save_controlnet
from modelzoo.controlnets import Sizes, kind_of
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from stages import evaluate, sample
from stages.base_record import read_record
from stages.conditions.making import canny
from stages.export import stage as export
from stages.generation import Sampling, base_records, generate, load_generator
from stages.judges.edges import EdgesJudge, agreement, edges_of
from stages.params.methods import Controlnet
from stages.params.outputs import Evaluate, Export, Prompt, Sample
from stages.params.tracking import Tracking
from stages.trained import load_trained

SECTION = Controlnet("canny")
SAMPLING = Sampling(steps=2, cfg_scale=2.0, seed=3, controlnet=SECTION)


def train_controlnet(data: Path, family: str) -> None:
    """Put a ControlNet in the place of what training leaves."""
    kind = FAMILIES[family]
    folder = read_record(data / "base/denoiser.json").folders[kind.folder]
    denoiser = load_denoiser(kind.denoiser, folder)
    net = kind_of(denoiser).grow(denoiser, Sizes(embedding_channels=(4, 8)), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # of the base, too, nothing is zero any more
        for parameter in (*denoiser.network.parameters(), *net.parameters()):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_denoiser(denoiser, folder)
    for file in (data / "train/weights").iterdir():
        file.unlink()
    save_controlnet(net, data / "train/weights")
    summary = json.loads((data / "train/summary.json").read_text())
    section = {"conditioning_type": "canny", "embedding_channels": [4, 8]}
    (data / "train/summary.json").write_text(json.dumps({**summary, "controlnet": section}))


def disc(left: int = 4) -> Image.Image:
    y, x = np.mgrid[:16, :32]
    inside = (x - left - 4) ** 2 + (y - 8) ** 2 < 20
    return Image.fromarray(np.where(inside, 0, 255).astype(np.uint8)).convert("RGB")


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of 32x16 pixels and the edges of the first."""
    folder = tmp_path / "given"
    folder.mkdir()
    disc(4).save(folder / "left.png")
    disc(20).save(folder / "right.png")
    canny(disc(4), SECTION.canny_low, SECTION.canny_high, SECTION.canny_sigma).save(
        folder / "edges.png"
    )
    return folder


def prompt(**given):
    return Prompt("two", 32, 16, **given)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_follows_what_its_prompt_names(data_of, pictures, family):
    data = data_of(family)
    train_controlnet(data, family)
    generator = load_generator(
        family, data / "train/weights", base_records(data / "base"), "float32"
    )
    prompts = [prompt(condition="edges.png"), prompt(condition_of="left.png")]
    prompts.append(prompt(condition_of="right.png"))
    places = [0, 0, 0]  # the same noise
    given, made, other = generate(generator, prompts, SAMPLING, "p", pictures, places=places)
    assert np.array_equal(given, made)
    assert not np.array_equal(made, other)
    none = replace(generator, controlnet=None)
    (free,) = generate(none, [prompt()], SAMPLING, "p", pictures)
    assert not np.array_equal(made, free)
    weak = replace(SAMPLING, controlnet=replace(SECTION, conditioning_scale=1e-12))
    (nothing,) = generate(generator, prompts[:1], weak, "p", pictures)
    assert np.abs(nothing.astype(int) - free).max() <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"p\[0\]: a ControlNet was trained, but this prompt names no picture to follow"),
        ({"condition": "nowhere.png"}, r"p\[0\]: the picture 'nowhere.png' is not in .*: put"),
        ({"condition": "small.png"}, r"'small.png' is 16x16 pixels, but it steers .* of 32x16"),
    ],
)
def test_a_picture_that_cannot_be_followed_is_one_sentence(data, pictures, given, message):
    train_controlnet(data, "flux2")
    Image.new("RGB", (16, 16)).save(pictures / "small.png")
    records = base_records(data / "base")
    generator = load_generator("flux2", data / "train/weights", records, "float32")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        generate(generator, [prompt(**given)], SAMPLING, "p", pictures)


def test_a_picture_to_follow_is_nothing_for_another_model(data, pictures):
    records = base_records(data / "base")
    generator = load_generator("flux2", data / "train/weights", records, "float32")
    with pytest.raises(ValueError, match="but no ControlNet was trained: take condition"):
        generate(generator, [prompt(condition="edges.png")], SAMPLING, "p", pictures)


def test_a_controlnet_of_another_family_is_one_sentence(data_of):
    data = data_of("flux2")
    train_controlnet(data, "flux2")
    record = read_record(data / "base/denoiser.json")
    config = data / "train/weights/config.json"
    values = {**json.loads(config.read_text()), "_class_name": "FluxControlNetModel"}
    config.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="'Flux2ControlNetModel' is needed: give the folder"):
        load_trained("flux2", data / "train/weights", record, torch.float32)


def test_the_grid_of_samples_is_drawn(data, pictures):
    train_controlnet(data, "flux2")
    asked = Sample([prompt(condition_of="left.png")], pictures=str(pictures), steps=1)
    sample.run(sample.Params("toy", "flux2", "float32", asked, 1, Tracking(mlflow=False)))
    assert Path("data/sample/grid.png").is_file()


def questions(folder: Path) -> None:
    entries = [
        {"prompt": name, "width": 32, "height": 16, "image": f"{name}.png", "label": [1]}
        for name in ("left", "right")
    ]
    (folder / "prompts.json").write_text(json.dumps(entries))


def test_evaluation_measures_edges_with_and_without_control(data, pictures):
    train_controlnet(data, "flux2")
    questions(pictures)
    asked = Evaluate("edges", str(pictures), steps=1, cfg_scale=1.0)
    evaluate.run(
        evaluate.Params(
            name="toy",
            family="flux2",
            dtype="float32",
            evaluate=asked,
            steps=1,
            cfg_scale=1.0,
            guidance=None,
            shift=None,
            sampler=None,
            keep_unmasked="pixels",
            threads=1,
            tracking=Tracking(mlflow=False),
        )
    )
    metrics = json.loads(Path("data/evaluate/metrics.json").read_text())
    gain = metrics["edge_agreement"] - metrics["edge_agreement_without_control"]
    assert metrics["edge_agreement_gain"] == pytest.approx(gain, abs=1e-5)
    assert metrics["edges_judged"] == 2


def test_the_judge_knows_real_pictures_and_tells_others(pictures):
    questions(pictures)
    exam = EdgesJudge().prepare(pictures, None)
    assert [question.condition_of for question in exam.questions] == ["left.png", "right.png"]
    assert {question.prompt for question in exam.questions} == {""}  # no caption helps
    right = [np.asarray(disc(4)), np.asarray(disc(20))]
    assert exam.metrics(exam.read(right))["edge_agreement"] == 1.0
    assert all(reading.correct for reading in exam.read(right))
    swapped = exam.metrics(exam.read(right[::-1]))
    assert swapped["edge_agreement"] == pytest.approx(exam.agreement_of_others, abs=0.05)
    assert swapped["edge_agreement"] < 0.3


def test_agreement_forgives_one_pixel_and_not_three():
    asked = np.zeros((16, 16), bool)
    asked[:, 8] = True
    assert agreement(asked, asked) == agreement(np.roll(asked, 1, 1), asked) == 1.0
    assert agreement(np.roll(asked, 3, 1), asked) == 0.0
    half = asked.copy()
    half[8:] = False
    assert agreement(half, asked) == pytest.approx(2 * (9 / 16) / (1 + 9 / 16))
    full = np.ones_like(asked)
    assert agreement(full, asked) < 0.35  # drawing edges everywhere does not pay
    nothing = np.zeros_like(asked)
    assert (agreement(nothing, asked), agreement(nothing, nothing)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "prompts.json").unlink(), "prompts.json is not there"),
        (lambda folder: (folder / "left.png").unlink(), "left.png is not there"),
        (lambda folder: Image.new("RGB", (32, 16)).save(folder / "left.png"), "has no edges"),
        (lambda folder: disc(4).resize((16, 16)).save(folder / "left.png"), "is 16x16 pixels"),
        (lambda folder: disc(20).save(folder / "left.png"), "agree to 1.00 already"),
    ],
)
def test_a_judge_that_cannot_tell_refuses(pictures, change, message):
    questions(pictures)
    change(pictures)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        EdgesJudge().prepare(pictures, None)


def test_edges_are_one_pixel_wide():
    assert 15 < edges_of(np.asarray(disc())).sum() < 45


def export_it(family: str) -> None:
    params = export.Params(family, "float32", Export(), "outputs/toy", 1, Tracking(mlflow=False))
    export.run(params)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_is_the_controlnet_alone_and_proven(data_of, family):
    data = data_of(family)
    train_controlnet(data, family)
    export_it(family)
    (weights,) = {path.name for path in (data / "export").iterdir()} - {"config.json"}
    proof = json.loads((data / "export_proof.json").read_text())
    assert proof["largest_difference"] == {"residuals": 0.0}
    assert proof["largest_change_of_a_prediction"] > 0
    assert proof["digests"] == {"controlnet": component_digest(data / "train/weights")}
    with safe_open(data / "export" / weights, "pt") as file:
        header = file.metadata()
    assert header["diffbase.training_fingerprint"] == "f" * 64
    assert (Path("outputs/toy") / weights).read_bytes() == (data / "export" / weights).read_bytes()


def test_a_controlnet_that_has_learnt_nothing_is_not_exported(data):
    train_controlnet(data, "flux2")
    file = data / "train/weights/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    still = {
        name: torch.zeros_like(value)
        if name.startswith(("controlnet_blocks", "controlnet_single_blocks"))
        else value
        for name, value in tensors.items()
    }
    save_file(still, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"nothing was trained: the ControlNet in .* adds nothing"):
        export_it("flux2")
    assert not (data / "export").exists()
