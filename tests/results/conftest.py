"""A tiny FLUX.2 klein as prepare_base and train leave it, and a folder for the digits judge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from modelzoo.autoencoders import init_autoencoder, save_autoencoder
from modelzoo.checkpoints.digest import component_digest
from modelzoo.families import FAMILIES
from modelzoo.text_encoders import init_text_encoder, train_tokenizer
from stages.make_digits import enlarge

FAMILY = "flux2"
MODEL: dict[str, Any] = {
    "type": FAMILY,
    "variant": "klein-4b",
    "from_scratch": {"vocab_size": 300},
    "transformer": {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_layers": 1,
        "num_single_layers": 1,
        "in_channels": 16,
        "guidance_embeds": False,
        "axes_dims_rope": [2, 2, 2, 2],
    },
    "vae": {
        "latent_channels": 4,
        "block_out_channels": [8, 8],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "text_encoder": {
        "qwen3": {
            "hidden_size": 16,
            "num_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "intermediate_size": 16,
            "max_length": 32,
            "output_layers": [1, 2, 3],
        }
    },
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `data` folder with a base, its records and trained weights; read only."""
    data = tmp_path_factory.mktemp("tiny") / "data"
    model, kind = data / "base" / "model", FAMILIES[FAMILY]
    train_tokenizer(["handwritten digits one two three"], 300, 32, model / "tokenizer")
    init_text_encoder(kind.text_encoder_config(MODEL), 0, model / "text_encoder")
    autoencoder = init_autoencoder(kind.autoencoder_config(MODEL), 0)
    autoencoder.set_latent_statistics(0.1 * torch.ones(16), 2 * torch.ones(16))
    save_autoencoder(autoencoder, model / "vae")
    (model / "scheduler").mkdir()
    _write(model / "scheduler" / "scheduler_config.json", kind.scheduler_config(MODEL))
    _write(model / "model_index.json", kind.model_index(MODEL))
    denoiser = kind.init_denoiser(kind.transformer_config(MODEL), 0)
    kind.save_denoiser(denoiser, model / "transformer")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.transformer.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    kind.save_denoiser(denoiser, data / "train" / "transformer")
    _record_base(data / "base")
    summary = {"fingerprint": "f" * 64, "val_loss": 0.123456789, "val_loss_base": 2.0}
    _write(data / "train" / "summary.json", summary)
    (data / "images.parquet").write_bytes(b"stands for the dataset's table")
    return data


@pytest.fixture
def data(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `tiny_model` in a workspace of its own, which is the working folder."""
    shutil.copytree(tiny_model, tmp_path / "data")
    _record_base(tmp_path / "data" / "base")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


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


def _record_base(base: Path) -> None:
    """Write the records of a base whose components lie below `base/model`."""
    for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        folder = base / "model" / part
        record = {"class_name": part, "path": str(folder), "digest": component_digest(folder)}
        _write(base / f"{part}.json", record)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
