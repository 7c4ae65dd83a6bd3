"""Tiny models as prepare_base and train leave them, and a folder for the digits judge."""

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
from sklearn.datasets import load_digits

from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from stages.make_digits.digits import enlarge
from tests import toys


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the `data` folder of a family: a base, its records, trained weights; read only."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "data"
            _write_model(made[family], family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_models: Callable[[str], Path]) -> Path:
    """The `data` folder of a FLUX.2 klein; read only."""
    return tiny_models("flux2")


@pytest.fixture
def data_of(
    tiny_models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Copy the `data` folder of a family into a workspace, which is the working folder."""

    def copy(family: str) -> Path:
        data = tmp_path / "data"
        shutil.copytree(tiny_models(family), data)
        toys.move_records(data / "base", tiny_models(family) / "base")
        monkeypatch.chdir(tmp_path)
        return data

    return copy


@pytest.fixture
def data(data_of: Callable[[str], Path]) -> Path:
    """A copy of `tiny_model` in a workspace of its own, which is the working folder."""
    return data_of("flux2")


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real scans and six composites for the digits judge; read only."""
    folder = tmp_path_factory.mktemp("judge") / "digits_judge"
    _write_judge_folder(folder, train=500, test=200)
    return folder


@pytest.fixture
def smaller_judge_folder(tmp_path: Path) -> Path:
    """A folder for the digits judge with 60 scans to learn from."""
    _write_judge_folder(tmp_path / "small", train=60, test=40)
    return tmp_path / "small"


def _write_judge_folder(folder: Path, train: int, test: int) -> None:
    """Write scans in a shuffled order and composites of the unseen ones."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))[: train + test]
    tiles = [enlarge(images[i].reshape(8, 8)) for i in order]
    for name in ("scans", "composites"):
        (folder / name).mkdir(parents=True)
    scans = []
    for i, (index, tile) in enumerate(zip(order, tiles, strict=True)):
        Image.fromarray(tile).save(folder / f"scans/{i:04d}.png")
        split = "train" if i < train else "test"
        scans.append({"image": f"scans/{i:04d}.png", "label": int(labels[index]), "split": split})
    prompts = []
    for q in range(6):
        chosen = list(range(train + 3 * q, train + 3 * q + 2 + q % 2))
        Image.fromarray(np.concatenate([tiles[i] for i in chosen], axis=1)).save(
            folder / f"composites/{q:04d}.png"
        )
        label = [scans[i]["label"] for i in chosen]
        prompts.append(
            {
                "prompt": f"handwritten digits {' '.join(map(str, label))}",
                "label": label,
                "width": 32 * len(chosen),
                "height": 32,
                "image": f"composites/{q:04d}.png",
            }
        )
    _write(folder / "scans.json", scans)
    _write(folder / "prompts.json", prompts)


def _write_model(data: Path, family: str) -> None:
    """Make a base, and weights that differ from it in every tensor."""
    kind = FAMILIES[family]
    toys.make_base(data / "base", family)
    denoiser = load_denoiser(kind.denoiser, data / "base" / "model" / kind.folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    save_denoiser(denoiser, data / "train" / "weights")
    summary: dict[str, Any] = {
        "fingerprint": "f" * 64,
        "val_loss": 0.123456789,
        "val_loss_base": 2.0,
    }
    summary |= {"time_offset": None, "controlnet": None}
    _write(data / "train" / "summary.json", summary)
    by_item = "item,base,trained\na,2.5,0.5\nb,1.5,0.5\nc,2.0,0.5\n"
    (data / "train" / "curves").mkdir()
    (data / "train" / "curves" / "val_loss_by_item.csv").write_text(by_item)
    (data / "images.parquet").write_bytes(b"stands for the dataset's table")


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
