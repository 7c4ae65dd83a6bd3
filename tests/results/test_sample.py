from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import sample, sample_grid
from stages.conditions.making import maker_of
from stages.params.methods import Controlnet
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
    sections = sample_grid.sections(PROMPTS, pictures, [[]] * 3)
    assert [section.heading for section in sections] == ["16 x 16 pixels", "32 x 16 pixels"]
    assert [cell.label for cell in sections[0].cells] == [
        "handwritten digits one",
        "(empty prompt)",
    ]


def written(folder: Path, name: str, colour: tuple[int, int, int]) -> str:
    Image.new("RGB", (32, 16), colour).save(folder / name)
    return name


def test_what_a_prompt_names_stands_before_its_picture(tmp_path: Path) -> None:
    red, white = written(tmp_path, "a.png", (255, 0, 0)), written(tmp_path, "b.png", (255,) * 3)
    edit = Prompt("fill it", 16, 16, references=[red], mask=white)
    cells = sample_grid.named(edit, tmp_path, None)
    assert [cell.label for cell in cells] == ["reference 1", "mask: white is filled"]
    assert [cell.picture.shape for cell in cells] == [(8, 16, 3)] * 2, "whole, in the same size"
    assert (cells[0].picture == [255, 0, 0]).all()
    drawn = np.zeros((16, 16, 3), np.uint8)
    (section,) = sample_grid.sections([edit], [drawn], [cells])
    assert [cell.label for cell in section.cells][-1] == "fill it"


def test_what_is_followed_is_shown_as_it_was_made(tmp_path: Path) -> None:
    red = written(tmp_path, "a.png", (255, 0, 0))
    (cell,) = sample_grid.named(
        Prompt("grey", 32, 16, condition_of=red), tmp_path, maker_of(Controlnet("grey"))
    )
    assert cell.label == "to follow"
    assert (cell.picture == 76).all(), "the luma of red"
    (cell,) = sample_grid.named(Prompt("given", 32, 16, condition=red), tmp_path, None)
    assert (cell.picture == [255, 0, 0]).all()


def test_a_wrong_size_leaves_no_grid(data: Path) -> None:
    with pytest.raises(ValueError, match=r"sample.prompts\[0\]: 17x16"):
        sample.run(params([Prompt("a", 17, 16)]))
    assert not (data / "sample").exists()
