"""Pictures made from pictures: what prompts name is seen in every step, with and without text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modelzoo.flux.v2.conditioning import widen_for_fill
from stages import sample
from stages.export import proof
from stages.generation import Generator, Picture, Sampling, base_records, generate, load_generator
from stages.kept_region import kept_errors, painted_errors
from stages.params.outputs import Prompt, Sample
from stages.params.tracking import Tracking
from stages.prompt_pictures import check_pictures, encode, open_mask, open_picture

SAMPLING = Sampling(steps=2, cfg_scale=2.0, seed=3)
ONE = Prompt("handwritten digits one", 16, 16, ["a.png"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of a prompt's size, a wide one, and a mask of the right half."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, size in {"a": (16, 16), "b": (16, 16), "wide": (24, 64)}.items():
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def generators(tiny_models: Callable[[str], Path]) -> Callable[[str], Generator]:
    made: dict[str, Generator] = {}

    def make(family: str) -> Generator:
        data = tiny_models(family)
        if family not in made:
            weights = data / "train" / "weights"
            made[family] = load_generator(family, weights, base_records(data / "base"), "float32")
        return made[family]

    return make


@pytest.fixture(scope="module")
def filler(generators: Callable[[str], Generator]) -> Generator:
    """A Fill model in which the further channels count."""
    base = generators("flux2")
    denoiser = widen_for_fill(base.denoiser, base.autoencoder.spatial_factor)  # type: ignore[arg-type]
    embedder = denoiser.network.get_submodule("x_embedder")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        embedder.weight += 0.2 * torch.randn(embedder.weight.shape, generator=generator)
    denoiser.network.eval().requires_grad_(False)
    return replace(base, denoiser=denoiser)


def one(generator: Generator, prompt: Prompt, folder: Path, **changes: object) -> Picture:
    sampling = replace(SAMPLING, **changes)  # type: ignore[arg-type]
    return generate(generator, [prompt], sampling, "test", folder)[0]


@pytest.mark.parametrize("family", ["flux", "flux2"])
@pytest.mark.parametrize("cfg_scale", [0.0, 1.0, 2.0])
def test_a_reference_is_seen_with_the_prompt_and_without_it(
    generators: Callable[[str], Generator], folder: Path, family: str, cfg_scale: float
) -> None:
    """At scale 0 only the prediction without the prompt counts."""
    generator = generators(family)
    given = [one(generator, replace(ONE, references=[name]), folder, cfg_scale=cfg_scale)
             for name in ("a.png", "b.png")]  # fmt: skip
    assert (given[0] != given[1]).any()
    without = one(generator, replace(ONE, references=[]), folder, cfg_scale=cfg_scale)
    assert (without != given[0]).any()


def test_a_picture_does_not_depend_on_the_references_of_its_neighbours(
    generators: Callable[[str], Generator], folder: Path
) -> None:
    generator = generators("flux2")
    prompts = [
        ONE,
        replace(ONE, references=["b.png"]),
        replace(ONE, references=["b.png", "a.png"]),
        replace(ONE, references=[]),
    ]
    together = generate(generator, prompts, SAMPLING, "test", folder)
    others = [replace(ONE, references=["wide.png"])] * 3
    again = generate(generator, prompts[:1] + others, SAMPLING, "test", folder)
    np.testing.assert_array_equal(together[0], again[0])
    plain = generate(generator, [*others, prompts[3]], SAMPLING, "test", folder)
    np.testing.assert_array_equal(together[3], plain[3])
    assert len({picture.tobytes() for picture in together}) == 4


def test_references_stand_where_training_put_them(
    generators: Callable[[str], Generator], folder: Path
) -> None:
    generator = generators("flux2")
    released = one(generator, ONE, folder)
    np.testing.assert_array_equal(one(generator, ONE, folder, time_offset=10.0), released)
    assert (one(generator, ONE, folder, time_offset=1.0) != released).any()


def test_what_is_filled_cannot_be_seen_and_what_is_kept_can(
    filler: Generator, folder: Path, tmp_path: Path
) -> None:
    prompt = replace(ONE, mask="mask.png")
    first = one(filler, prompt, folder, keep_unmasked="none")
    pixels = {name: np.asarray(Image.open(folder / f"{name}.png")) for name in ("a", "b")}
    hidden, kept = pixels["a"].copy(), pixels["a"].copy()
    hidden[:, 8:], kept[:, :8] = pixels["b"][:, 8:], pixels["b"][:, :8]
    Image.open(folder / "mask.png").save(tmp_path / "mask.png")
    Image.fromarray(hidden).save(tmp_path / "a.png")
    again = one(filler, prompt, tmp_path, keep_unmasked="none")
    np.testing.assert_array_equal(again, first)
    Image.fromarray(kept).save(tmp_path / "a.png")
    assert (one(filler, prompt, tmp_path, keep_unmasked="none") != first).any()


def test_what_no_mask_fills_is_the_autoencoders_copy_of_the_picture(
    filler: Generator, folder: Path
) -> None:
    prompt = replace(ONE, mask="mask.png")
    seen = encode([prompt], folder, filler.autoencoder, filler.device, None)
    assert seen.original is not None
    assert seen.is_kept is not None
    mask = open_mask(folder / "mask.png", prompt)[None]
    side = filler.autoencoder.spatial_factor
    for row, column in np.ndindex(*seen.is_kept.shape[-2:]):
        cell = mask[..., row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert bool(seen.is_kept[0, 0, row, column]) == (cell.max() == 0)
    assert 0 < seen.is_kept.float().mean() < 1
    painted = torch.zeros_like(seen.original)
    restored = seen.restored(painted)
    kept = seen.is_kept.expand_as(painted)
    assert torch.equal(restored[kept], seen.original[kept])
    assert not restored[~kept].any()
    copied = one(filler, prompt, folder, keep_unmasked="latents")
    assert (copied != one(filler, prompt, folder, keep_unmasked="none")).any()


def test_pixels_that_no_mask_fills_stay_as_they_are(filler: Generator, folder: Path) -> None:
    prompt = replace(ONE, mask="mask.png")
    picture = one(filler, prompt, folder)
    original = np.asarray(Image.open(folder / "a.png"))
    np.testing.assert_array_equal(picture[:, :8], original[:, :8])
    painted = one(filler, prompt, folder, keep_unmasked="latents")
    np.testing.assert_array_equal(picture[:, 8:], painted[:, 8:])
    assert (painted[:, :8] != original[:, :8]).any()


def test_what_the_model_paints_alone_is_measured_too(filler: Generator, folder: Path) -> None:
    prompt = replace(ONE, mask="mask.png")
    alone = one(filler, prompt, folder, keep_unmasked="none")
    expected = kept_errors(filler, [prompt], [alone], folder)["kept_error"]
    found = painted_errors(filler, [ONE, prompt], SAMPLING, folder)
    assert found == {"kept_error_painted": expected} != {"kept_error_painted": 0}
    assert not painted_errors(filler, [prompt], replace(SAMPLING, keep_unmasked="none"), folder)


def test_a_model_is_given_the_pictures_that_it_knows(
    generators: Callable[[str], Generator], filler: Generator, folder: Path
) -> None:
    with pytest.raises(ValueError, match="SDXL takes no pictures to edit"):
        one(generators("sdxl"), ONE, folder)
    with pytest.raises(ValueError, match="give a picture and its mask to Fill models"):
        one(generators("flux2"), replace(ONE, mask="mask.png"), folder)
    with pytest.raises(ValueError, match="0 channels of what is to be filled were given"):
        one(filler, ONE, folder)


def test_an_export_of_a_fill_model_is_proven_on_pictures_of_which_nothing_is_kept(
    filler: Generator,
) -> None:
    outputs = proof._outputs(filler)
    assert outputs["prediction"].isfinite().all()


def test_pictures_are_cut_to_the_prompt_and_masks_to_two_values(folder: Path) -> None:
    exact = open_picture(folder / "a.png", ONE)
    pixels = np.array(Image.open(folder / "a.png"))
    torch.testing.assert_close(exact, torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1)
    assert open_picture(folder / "wide.png", replace(ONE, width=32)).shape == (3, 16, 32)
    mask = open_mask(folder / "mask.png", ONE)
    assert mask.shape == (1, 16, 16)
    assert mask[0, 0].tolist() == [0.0] * 8 + [1.0] * 8
    larger = open_mask(folder / "mask.png", replace(ONE, width=20, height=20))
    assert set(larger.unique().tolist()) == {0.0, 1.0}


def test_a_picture_that_is_not_there_and_a_mask_without_one_are_named(folder: Path) -> None:
    absent = replace(ONE, references=["c.png"])
    with pytest.raises(FileNotFoundError, match=r"test\[1\]: the picture 'c.png' is not in"):
        check_pictures([ONE, absent], folder, "test")
    with pytest.raises(ValueError, match=r"test\[0\].mask: 'mask.png' given with 0 references"):
        check_pictures([replace(ONE, references=[], mask="mask.png")], folder, "test")


def test_the_stage_samples_where_training_says(data: Path, folder: Path) -> None:
    asked = Sample([ONE], str(folder), steps=2, cfg_scale=2.0, seed=3)
    params = sample.Params("toy", "flux2", "float32", asked, 1, Tracking(mlflow=False))
    grids = []
    for offset in (None, 10.0, 1.0):
        path = data / "train" / "summary.json"
        summary = json.loads(path.read_text()) | {"time_offset": offset}
        path.write_text(json.dumps(summary))
        sample.run(params)
        grids.append((data / "sample" / "grid.png").read_bytes())
    assert grids[0] == grids[1] != grids[2]
    missing = dataclasses.replace(asked, pictures=str(data))
    with pytest.raises(FileNotFoundError, match=r"sample.prompts\[0\]: the picture 'a.png'"):
        sample.run(dataclasses.replace(params, sample=missing))
