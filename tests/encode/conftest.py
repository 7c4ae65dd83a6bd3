"""A workspace with pictures, captions and a base of a few thousand parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages import pixels
from stages.artifacts import write_table
from stages.tables import to_table
from tests import toys

SIZES = [(64, 32), (32, 32), (40, 30)]  # pixels; the last is resized and cropped


class Workspace:
    """The inputs of the encoding stages in a folder, which is the working folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pictures: list[dict] = []
        self.captions: dict[str, str] = {}

    def add_picture(self, seed: int) -> str:
        """Draw a picture, put it into a bucket and give it a caption; return its sample id."""
        width, height = SIZES[seed % 3]
        values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = self.root / "pictures" / f"{seed}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path)
        content = pixels.content_hash(pixels.open_rgb(path))
        bucket = (64, 32) if width == 64 else (32, 32)
        resized = (43, 32) if width == 40 else (width, height)
        row = {"sample_id": content[:20], "content": content, "path": path.name}
        row |= {"split": "train", "bucket": "{}x{}".format(*bucket)}
        row |= {"width": bucket[0], "height": bucket[1]}
        row |= {"resize_width": resized[0], "resize_height": resized[1]}
        row |= {"crop_left": (resized[0] - bucket[0]) // 2, "crop_top": 0}
        row |= {"original_width": width, "original_height": height}
        self.pictures.append(row)
        self.captions[content[:20]] = f"picture number {seed}"
        return content[:20]

    def write(self) -> None:
        """Write what the stages before the encoders write."""
        rows = sorted(self.pictures, key=lambda row: row["sample_id"])
        write_table(self.root / "data/buckets.parquet", to_table(rows, "buckets"), "buckets")
        captions = [
            {"sample_id": name, "caption": text} for name, text in sorted(self.captions.items())
        ]
        write_table(self.root / "data/captions.parquet", to_table(captions, "captions"), "captions")

    def write_params(self, family: str = "flux2", **hardware: int) -> None:
        """Write a params.yaml; JSON is YAML."""
        params = {
            "model": {"type": family},
            "data": {"train_path": "pictures"},
            "hardware": {"threads": 1, "encode_batch_size": 4, **hardware},
        }
        (self.root / "params.yaml").write_text(json.dumps(params))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Ten pictures of two buckets, with captions, and a store of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFBASE_STORE", str(tmp_path / "store"))
    repository = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", str(repository))  # for stages started as children
    threads = torch.get_num_threads()
    toys.make_base(Path("data/base"), "flux2")
    space = Workspace(tmp_path)
    for seed in range(10):
        space.add_picture(seed)
    space.write()
    space.write_params()
    yield space
    torch.set_num_threads(threads)
