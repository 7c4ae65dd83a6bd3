from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.generation import (
    MAX_BATCH,
    Generator,
    Sampling,
    batch_size,
    component_folders,
    generate,
    load_generator,
    starting_noise,
    to_pictures,
)
from stages.params.outputs import Prompt

SAMPLING = Sampling(steps=2, cfg_scale=2.0, seed=3, shift=None)
PROMPTS = [
    Prompt("handwritten digits one", 16, 16),
    Prompt("handwritten digits two three", 32, 16),
    Prompt("", 16, 16),
    Prompt("handwritten digits three", 16, 16),
]


@pytest.fixture(scope="module")
def generator(tiny_model: Path) -> Generator:
    folders = component_folders(tiny_model / "train" / "transformer", tiny_model / "base")
    return load_generator("flux2", folders, "float32")


def test_pictures_come_in_the_order_and_sizes_asked_for(generator: Generator) -> None:
    pictures = generate(generator, PROMPTS, SAMPLING, "test")
    assert [p.shape for p in pictures] == [(16, 16, 3), (16, 32, 3), (16, 16, 3), (16, 16, 3)]
    assert all(p.dtype == np.uint8 for p in pictures)


def test_a_picture_does_not_depend_on_the_prompts_around_it(generator: Generator) -> None:
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
    "other",
    [
        Sampling(steps=3, cfg_scale=2.0, seed=3, shift=None),
        Sampling(steps=2, cfg_scale=5.0, seed=3, shift=None),
        Sampling(steps=2, cfg_scale=2.0, seed=4, shift=None),
        Sampling(steps=2, cfg_scale=2.0, seed=3, shift=1.0),
    ],
    ids=["steps", "cfg_scale", "seed", "shift"],
)
def test_every_setting_of_the_sampling_counts(generator: Generator, other: Sampling) -> None:
    prompts = PROMPTS[:1]
    ours = generate(generator, prompts, SAMPLING, "test")[0]
    assert (ours != generate(generator, prompts, other, "test")[0]).any()


def test_without_guidance_the_empty_prompt_is_not_encoded(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = Generator.context

    def noting(self: Generator, prompts: list[str]) -> dict[str, torch.Tensor]:
        encoded.extend(prompts)
        return encode(self, prompts)

    monkeypatch.setattr(Generator, "context", noting)
    generate(generator, PROMPTS[:1], Sampling(1, 1.0, 3, None), "test")
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
    folders = component_folders(tiny_model / "train" / "transformer", tiny_model / "base")
    with pytest.raises(ValueError, match=r"model.type: 'sdxl'"):
        load_generator("sdxl", folders, "float32")
