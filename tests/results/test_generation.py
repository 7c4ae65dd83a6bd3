from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.generation import (
    MAX_BATCH,
    Generator,
    Sampling,
    base_records,
    batch_size,
    generate,
    load_generator,
    starting_noise,
    to_pictures,
)
from stages.params.outputs import Prompt
from tests import toys

SAMPLING = Sampling(steps=2, cfg_scale=2.0, seed=3)
PROMPTS = [
    Prompt("handwritten digits one", 16, 16),
    Prompt("handwritten digits two three", 32, 16),
    Prompt("", 16, 16),
    Prompt("handwritten digits three", 16, 16),
]


def load(data: Path, family: str) -> Generator:
    return load_generator(
        family, data / "train" / "weights", base_records(data / "base"), "float32"
    )


@pytest.fixture(scope="module")
def generator(tiny_model: Path) -> Generator:
    return load(tiny_model, "flux2")


@pytest.fixture(scope="module")
def generators(tiny_models: Callable[[str], Path]) -> dict[str, Generator]:
    return {family: load(tiny_models(family), family) for family in toys.MODELS}


@pytest.mark.parametrize("family", toys.MODELS)
def test_pictures_come_in_the_order_and_sizes_asked_for(
    generators: dict[str, Generator], family: str
) -> None:
    pictures = generate(generators[family], PROMPTS, SAMPLING, "test")
    assert [p.shape for p in pictures] == [(16, 16, 3), (16, 32, 3), (16, 16, 3), (16, 16, 3)]
    assert all(p.dtype == np.uint8 for p in pictures)


@pytest.mark.parametrize("family", toys.MODELS)
def test_a_picture_does_not_depend_on_the_prompts_around_it(
    generators: dict[str, Generator], family: str
) -> None:
    generator = generators[family]
    few = generate(generator, PROMPTS, SAMPLING, "test")
    more = PROMPTS + [Prompt("handwritten digits two", 16, 16)] * (MAX_BATCH + 1)
    many = generate(generator, more, SAMPLING, "test")
    for one, other in zip(few, many[: len(few)], strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_prompts_at_different_places_start_from_different_noise(
    generator: Generator,
) -> None:
    first, second = generate(generator, [PROMPTS[0], PROMPTS[0]], SAMPLING, "test")
    assert (first != second).any()


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("flux2", {"steps": 3}),
        ("flux2", {"cfg_scale": 5.0}),
        ("flux2", {"seed": 4}),
        ("flux2", {"shift": 1.0}),
        ("flux2", {"sampler": "dpmpp_2m"}),
        ("flux", {"guidance": 1.0}),
        ("sd3", {"shift": 1.0}),
        ("sdxl", {"sampler": "ddim"}),
    ],
)
def test_every_setting_of_the_sampling_counts(
    generators: dict[str, Generator], family: str, change: dict[str, float]
) -> None:
    sampling = replace(
        SAMPLING, steps=4
    )  # with fewer, a second-order sampler is the first-order one
    ours = generate(generators[family], PROMPTS[:1], sampling, "test")[0]
    other = replace(sampling, **change)  # type: ignore[arg-type]
    assert (ours != generate(generators[family], PROMPTS[:1], other, "test")[0]).any()


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("sdxl", {"shift": 3.0}, "the times of DDPM have none"),
        ("flux", {"sampler": "ddim"}, "flow matching has no sampler 'ddim'"),
        ("sd3", {"guidance": 3.5}, r"guidance 3\.5 was given, but this model has no guidance"),
    ],
)
def test_a_setting_that_the_family_does_not_have_is_refused(
    generators: dict[str, Generator], family: str, change: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(generators[family], PROMPTS, replace(SAMPLING, **change), "test")  # type: ignore[arg-type]


def test_sdxl_is_told_the_size_of_the_picture_and_that_nothing_was_cut(
    generators: dict[str, Generator],
) -> None:
    conditions = generators["sdxl"].conditions(["one", "two"], width=32, height=16)
    assert conditions["sizes"].tolist() == [[16, 32, 0, 0, 16, 32]] * 2


def test_without_guidance_the_empty_prompt_is_not_encoded(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = Generator.conditions

    def noting(self: Generator, prompts: list[str], *size: int) -> dict[str, torch.Tensor]:
        encoded.extend(prompts)
        return encode(self, prompts, *size)

    monkeypatch.setattr(Generator, "conditions", noting)
    generate(generator, PROMPTS[:1], Sampling(1, 1.0, 3), "test")
    assert set(encoded) == {PROMPTS[0].prompt}


def test_a_size_that_the_autoencoder_cannot_make_is_refused(generator: Generator) -> None:
    with pytest.raises(ValueError, match=r"sample\[1\]: 30x16 pixels .* 4.*: use 32x16"):
        generate(generator, [PROMPTS[0], Prompt("a", 30, 16)], SAMPLING, "sample")


def test_large_pictures_share_smaller_batches() -> None:
    assert batch_size(64, 32) == MAX_BATCH
    assert batch_size(512, 512) == 4
    assert batch_size(2048, 2048) == 1


def test_noise_of_an_index_does_not_depend_on_shape_order_or_global_state() -> None:
    torch.manual_seed(0)
    first = starting_noise(1, 2, (4, 3, 2))
    torch.manual_seed(1)
    torch.testing.assert_close(starting_noise(1, 2, (4, 3, 2)), first, rtol=0, atol=0)
    assert not torch.equal(starting_noise(1, 3, (4, 3, 2)), first)
    assert not torch.equal(starting_noise(2, 2, (4, 3, 2)), first)


def test_pixels_become_rounded_and_bounded_bytes() -> None:
    pixels = torch.tensor([-2.0, -1.0, 0.0, 1.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert to_pictures(pixels)[0][0, :, 0].tolist() == [0, 0, 128, 255]


def test_an_unknown_family_is_named(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"model.type: 'flux3'"):
        load(tiny_model, "flux3")


def test_a_denoiser_of_another_family_is_refused(tiny_models: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"'UNet2DConditionModel', but Flux1 needs"):
        load(tiny_models("sdxl"), "flux")
