"""A workspace as the encoding stages leave it: rows of noise, and a small transformer."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from modelzoo import families
from modelzoo.flux.v2.config import Flux2Config
from stages.artifacts import write_json, write_table
from stages.params.read import read
from stages.rows.keys import row_key, table_name
from stages.rows.table import RowTable
from stages.tables import to_table
from stages.train.stage import Params

REPOSITORY = Path(__file__).parents[2]
CONFIG = Flux2Config(
    in_channels=8,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=12,
    timestep_guidance_channels=16,
    axes_dims_rope=(4, 4, 4, 4),
    guidance_embeds=False,
)
SHAPES = {"32x32": (8, 2, 2), "64x32": (8, 2, 4)}  # of the latents in each bucket
CONTEXT = (3, 12)
TRAINING = {
    "steps": 20,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "lr_schedule": {"type": "cosine", "warmup_steps": 2},
    "caption_dropout": 0.2,
    "ema": {"decay": 0.9},
    "validation": {"every": 7, "images": 3, "timesteps": [0.25, 0.75]},
    "checkpoint": {"every": 3, "keep": 2},
    "log_every": 4,
}


class Workspace:
    """A folder with everything that training reads."""

    def __init__(self, root: Path, num_images: int = 19, num_validation: int = 4) -> None:
        self.root, self.store = root, root / "store"
        self.output = root / "data" / "train"
        self.num_images, self.num_validation = num_images, num_validation
        self.tree: dict[str, Any] = {
            "experiment": {"name": "toy", "output_dir": "outputs/toy", "seed": 1},
            "model": {"type": "flux2", "dtype": "float32"},
            "training": {**TRAINING},
            "data": {"train_path": "data/raw/toy", "store": str(self.store)},
            "hardware": {"threads": 1},
            "tracking": {"mlflow": False},
        }
        self._write_base()
        self._write_rows()
        write_table(root / "data/images.parquet", to_table([], "images"), "images")

    def params(self, **training: Any) -> Params:
        """Write params.yaml with changes to the section `training`; read it as the stage does."""
        self.tree["training"] = {**TRAINING, **training}
        path = self.root / "params.yaml"
        path.write_text(yaml.safe_dump(self.tree))
        return read(Params, path)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start `python -m stages.train` here, below `command` if one is given."""
        module = [sys.executable, "-m", "stages.train"]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*command, *module],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _write_base(self) -> None:
        folder = self.root / "data/base/model/transformer"
        family = families.family("flux2")
        denoiser = family.init_denoiser(CONFIG, 0)
        torch.nn.init.normal_(denoiser.transformer.proj_out.weight, std=0.1)
        family.save_denoiser(denoiser, folder)
        base = self.root / "data/base"
        path = {"path": str(folder), "class_name": "Flux2Transformer2DModel"}
        write_json(base / "transformer.json", {**path, "digest": "transformer"})
        write_json(base / "vae.json", {**path, "digest": "vae"})
        write_json(base / "text_encoder.json", {**path, "digest": "text encoder"})

    def _write_rows(self) -> None:
        random = np.random.default_rng(0)
        latents, captions = [], []
        for i in range(self.num_images):
            bucket = list(SHAPES)[i % 2]
            columns = {"mean": SHAPES[bucket]}
            name, key = table_name("latents", columns), row_key(image=i)
            table = RowTable.open(str(self.store), name, columns)
            table.add([key], {"mean": random.standard_normal((1, *SHAPES[bucket]), np.float32)})
            sample_id = f"{i:020x}"
            captions.append({"sample_id": sample_id, "caption": f"picture {i % 5}"})
            channels, height, width = SHAPES[bucket]
            latents.append(
                {
                    "sample_id": sample_id,
                    "key": key,
                    "table": name,
                    "split": "validation" if i < self.num_validation else "train",
                    "bucket": bucket,
                    "channels": channels,
                    "height": height,
                    "width": width,
                }
            )
        columns = {"context": CONTEXT}
        name = table_name("text", columns)
        distinct = sorted({"", *(row["caption"] for row in captions)})
        keys = [row_key(caption=caption) for caption in distinct]
        values = random.standard_normal((len(distinct), *CONTEXT), np.float32)
        RowTable.open(str(self.store), name, columns).add(keys, {"context": values})
        prompts = [
            {"caption": caption, "key": key, "table": name}
            for caption, key in zip(distinct, keys, strict=True)
        ]
        self._write("latents", latents, {"encoder": "vae", "family": "flux2"})
        self._write("prompts", prompts, {"encoder": "text encoder", "family": "flux2"})
        self._write("captions", captions, {})

    def _write(self, name: str, rows: list[dict[str, Any]], extra: dict[str, str]) -> None:
        write_table(self.root / f"data/{name}.parquet", to_table(rows, name), name, extra)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIFFBASE_STORE", raising=False)
    return Workspace(tmp_path)


@pytest.fixture
def make_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Workspace]:
    """Make a workspace of other sizes, which becomes the working folder."""

    def make(**sizes: int) -> Workspace:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("DIFFBASE_STORE", raising=False)
        return Workspace(tmp_path, **sizes)

    return make


@pytest.fixture(scope="session")
def forks() -> Any:
    """Processes that start at once: forked from a server that has imported the trainer, no more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages.train.stage", "torch._dynamo"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY), prepend=os.pathsep)
        patch.delenv("DIFFBASE_STORE", raising=False)
        context.Process(target=time.sleep, args=(0,)).start()  # starts the server as it is now
    return context
