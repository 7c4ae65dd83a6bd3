from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import sample, sample_grid
from stages.params.outputs import Prompt, Sample
from stages.params.tracking import Tracking
from tests import toys

PROMPTS = [
    Prompt("handwritten digits one", 16, 16),
    Prompt("handwritten digits one two", 32, 16),
    Prompt("", 16, 16),
]


def params(prompts: list[Prompt], family: str = "flux2") -> sample.Params:
    asked = Sample(prompts=prompts, steps=2, cfg_scale=2.0, seed=1)
    return sample.Params("toy", family, "float32", asked, 1, Tracking(mlflow=False))


@pytest.mark.parametrize("family", toys.MODELS)
def test_the_grid_is_a_picture_and_its_bytes_repeat(
    data_of: Callable[[str], Path], family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_of(family)
    capsys.readouterr()
    sample.run(params(PROMPTS, family))
    grid = data / "sample" / "grid.png"
    first = grid.read_bytes()
    with Image.open(grid) as image:
        assert image.width > 128
    assert capsys.readouterr().out == "drew 3 pictures: data/sample/grid.png\n"
    sample.run(params(PROMPTS, family))
    assert grid.read_bytes() == first


def test_pictures_are_grouped_by_size_with_their_prompts() -> None:
    pictures = [np.zeros((p.height, p.width, 3), np.uint8) for p in PROMPTS]
    sections = sample_grid.sections(PROMPTS, pictures)
    assert [section.heading for section in sections] == ["16 x 16 pixels", "32 x 16 pixels"]
    assert [cell.label for cell in sections[0].cells] == [
        "handwritten digits one",
        "(empty prompt)",
    ]


def test_a_wrong_size_leaves_no_grid(data: Path) -> None:
    with pytest.raises(ValueError, match=r"sample.prompts\[0\]: 17x16"):
        sample.run(params([Prompt("a", 17, 16)]))
    assert not (data / "sample").exists()
