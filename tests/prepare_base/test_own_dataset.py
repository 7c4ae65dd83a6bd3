from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from stages.prepare_base.autoencoder import read_pictures
from stages.prepare_base.from_scratch import usable
from tests.dataset.making import parquet, tar, write


def saved(path: Path, size: tuple[int, int] = (16, 8)) -> bytes:
    Image.new("RGB", size, "red").save(path)
    return path.read_bytes()


def test_pictures_are_read_wherever_they_lie(tmp_path: Path) -> None:
    data = saved(tmp_path / "a.png")
    tar(tmp_path / "0.tar", {"a.png": data})
    parquet(tmp_path / "t.parquet", {"image": [data]})
    (stacked,) = read_pictures(tmp_path, ["a.png", "0.tar/a.png", "t.parquet/0"], factor=8)
    assert stacked.shape == (3, 3, 8, 16)


def test_a_picture_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "small.png", (4, 4))
    write(tmp_path, {"broken.png": "no picture"})
    with pytest.raises(ValueError, match=r"small.png is 4x4 pixels, smaller than the 8"):
        read_pictures(tmp_path, ["small.png"], factor=8)
    with pytest.raises(ValueError, match=r"broken.png cannot be used: .*; mend or remove it"):
        read_pictures(tmp_path, ["broken.png"], factor=8)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a.png": ""}, "it has no caption"),
        ({"a.png": "", "a.txt": b"\xff"}, "its caption file a.txt is not UTF-8"),
        ({"metadata.json": '[{"image": "a.png", "caption": "a"}]'}, "the file is missing"),
    ],
)
def test_each_picture_of_a_base_needs_a_caption(
    tmp_path: Path, files: dict[str, str | bytes], problem: str
) -> None:
    write(tmp_path, files)
    with pytest.raises(ValueError, match=rf"dataset: .*a.png' cannot be used: {problem}; mend"):
        usable(tmp_path, ".txt")
