"""The parameters of a toy training, and what is asked of it."""

from __future__ import annotations

from pathlib import Path

import yaml

from stages.needs import Asked, MicroBatch
from stages.params.read import read
from stages.train.stage import Params

LENGTHS = {"qwen3": 5}
BATCHES = [MicroBatch(32, 16, 3), MicroBatch(16, 16, 3)]


def asked_in(home, batches=BATCHES, **changes):
    return Asked("params.yaml", batches, LENGTHS, records="data/base", **changes)


def params_in(home, monkeypatch, training=None, **sections):
    monkeypatch.chdir(home)
    tree = {
        "experiment": {"name": "toy", "output_dir": "outputs/toy", "seed": 1},
        "model": {"type": "flux2", "dtype": "float32", **sections.get("model", {})},
        "training": {"steps": 20, "ema": {"decay": 0.9}, **(training or {})},
        "data": {"train_path": "data/raw/toy", "store": "store", "resolution": 16},
        "hardware": {"threads": 1, **sections.get("hardware", {})},
        "tracking": {"mlflow": False},
    }
    tree["data"] |= {"bucket_resolution_steps": 1, "min_bucket_resolution": 1}
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    return read(Params)
