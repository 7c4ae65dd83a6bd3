"""A workspace as the encoding stages leave it: rows of noise, and a small denoiser."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from modelzoo.denoiser import init_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from stages.artifacts import read_table, write_table
from stages.base_record import Part, read_record, write_record
from stages.params.read import read
from stages.rows.keys import row_key, table_name
from stages.rows.layout import Column
from stages.rows.table import RowTable
from stages.tables import SIZES, to_table
from stages.train.stage import Params
from tests import toys

REPOSITORY = Path(__file__).parents[2]
ROWS = {  # of the text encoders of toy models
    "sdxl": {"context": (12, 32), "pooled": (16,)},
    "flux": {"context": (10, 32), "pooled": (16,)},
    "flux2": {"context": (5, 48)},
    "sd3": {"context": (22, 32), "pooled": (32,)},
}
SIDES = ((16, 16), (32, 16))  # width and height of the buckets in turn; a latent's cell has 2
RESOLUTION = 16
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

    def __init__(
        self,
        root: Path,
        num_images: int = 19,
        num_validation: int = 4,
        family: str = "flux2",
        num_variants: int = 1,
        repeats: Sequence[int] = (1,),
        weights: Sequence[float] = (1.0,),
        scales: Sequence[int] = (1,),
        num_prior: int = 0,
        references: Sequence[int] = (0,),
        has_masks: bool = False,
        has_conditions: bool = False,
    ) -> None:
        """Write the files.

        Args:
            root: The folder.
            num_images: Samples.
            num_validation: The first of them.
            family: Of the models.
            num_variants: Of the latents and of the captions of each sample.
            repeats: Of the samples in turn.
            weights: Of the samples in turn.
            scales: Each gives the samples a further resolution, RESOLUTION times it.
            num_prior: The last of them, which the base has made.
            references: Their number, of the samples in turn; the first is as large as its target,
                the others are squares.
            has_masks: Give each target a mask, and latents of what it leaves.
            has_conditions: Give each target a condition.
        """
        self.root, self.store, self.family = root, root / "store", family
        self.output = root / "data" / "train"
        self.num_images, self.num_validation = num_images, num_validation
        self.num_variants, self.scales = num_variants, scales
        self.repeats, self.weights, self.num_prior = repeats, weights, num_prior
        self.references = references
        self.has_masks, self.has_conditions = has_masks, has_conditions
        self.tree: dict[str, Any] = {
            "experiment": {"name": "toy", "output_dir": "outputs/toy", "seed": 1},
            "model": {"type": family, "dtype": "float32"},
            "training": {**TRAINING},
            "data": {
                "train_path": "data/raw/toy",
                "store": str(self.store),
                "resolution": RESOLUTION,
                "bucket_resolution_steps": 1,
                "min_bucket_resolution": 1,
            },
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

    def latents(self) -> list[dict[str, Any]]:
        """Return the rows of data/latents.parquet."""
        return read_table(self.root / "data/latents.parquet", "latents").to_pylist()

    def write_latents(self, rows: list[dict[str, Any]]) -> None:
        """Write data/latents.parquet, whose rows the store has."""
        self._write("latents", rows, self._made_by("vae"))

    def _write_base(self) -> None:
        kind, base = FAMILIES[self.family], self.root / "data/base"
        model = dataclasses.asdict(toys.section(self.family, self.root))
        folder = base / "model" / kind.folder
        denoiser = init_denoiser(kind.denoiser, kind.network_config(model), 0)
        last = getattr(denoiser.network, "proj_out", None) or denoiser.network.conv_out
        torch.nn.init.normal_(last.weight, std=0.1, generator=torch.Generator().manual_seed(0))
        save_denoiser(denoiser, folder)
        part = Part(kind.denoiser.NETWORK.__name__, folder, "denoiser")
        write_record(base / "denoiser.json", {kind.folder: part}, {})
        scheduler = base / "model/scheduler"
        scheduler.mkdir()
        settings = kind.scheduler_config(model)
        (scheduler / "scheduler_config.json").write_text(json.dumps(settings))
        part = Part(settings["_class_name"], scheduler, "scheduler")
        write_record(base / "scheduler.json", {"scheduler": part}, {})
        for name in ("vae", "text_encoder"):
            self.write_encoder(name, name)

    def write_encoder(self, name: str, digest: str) -> None:
        """Name an encoder of the base in a record; training compares its digest alone."""
        part = Part("Encoder", self.root / "data/base/model" / name, digest)
        write_record(self.root / f"data/base/{name}.json", {name: part}, {})

    def _write_rows(self) -> None:
        random = np.random.default_rng(0)
        latents, captions = [], []
        self.columns: dict[str, dict[str, Column]] = {}  # by table
        self.added: dict[str, list[tuple[str, dict[str, Any]]]] = {}  # likewise, keys and rows
        for i, scale, variant in product(
            range(self.num_images), self.scales, range(self.num_variants)
        ):
            row = {"sample_id": f"{i:020x}", "variant": variant}
            if scale == self.scales[0]:
                captions.append(row | {"caption": self._caption(i, variant)})
            width, height = (scale * side for side in SIDES[i % 2])
            row["split"] = "validation" if i < self.num_validation else "train"
            row["repeats"] = self.repeats[i % len(self.repeats)]
            row["weight"] = self.weights[i % len(self.weights)]
            row["prior"] = row["split"] == "train" and i >= self.num_images - self.num_prior
            row["resolution"] = scale * RESOLUTION
            told = dict(zip(SIZES, (100 + i, 200, i % 3, variant, height, width), strict=True))
            for role, index, (wide, high) in self._roles(i, width, height):
                image = (
                    (i, scale, variant) if role == "target" else (i, scale, variant, role, index)
                )
                added = self._add_picture(random, role, image, wide, high)
                latents.append(row | told | {"role": role, "index": index} | added)
        for table, added in self.added.items():
            keys, rows = zip(*added, strict=True)
            together = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
            RowTable.open(str(self.store), table, self.columns[table]).add(keys, together)
        columns = ROWS[self.family]
        name = table_name("text", columns)
        distinct = sorted({"", *(row["caption"] for row in captions)})
        keys = [row_key(caption=caption) for caption in distinct]
        values = {
            column: random.standard_normal((len(distinct), *shape), np.float32)
            for column, shape in columns.items()
        }
        RowTable.open(str(self.store), name, columns).add(keys, values)
        prompts = [
            {"caption": caption, "key": key, "table": name}
            for caption, key in zip(distinct, keys, strict=True)
        ]
        self.write_latents(latents)
        self._write("prompts", prompts, self._made_by("text_encoder"))
        self._write("captions", captions, {})

    def _caption(self, number: int, variant: int) -> str:
        """Return a caption of a sample, which others may have too."""
        return f"picture {number % 5}" + (f" again {variant}" if variant else "")

    def _roles(
        self, number: int, width: int, height: int
    ) -> Iterator[tuple[str, int, tuple[int, int]]]:
        """List role, index and size of the pictures of a sample, as they are sorted."""
        yield "target", 0, (width, height)
        for index in range(self.references[number % len(self.references)]):
            yield "reference", index, (height, height) if index else (width, height)
        for role, is_there in (
            ("mask", self.has_masks),
            ("condition", self.has_conditions),
            ("masked", self.has_masks),
        ):
            if is_there:
                yield role, 0, (width, height)

    def _add_picture(
        self,
        random: np.random.Generator,
        role: str,
        image: tuple[int | str, ...],
        width: int,
        height: int,
    ) -> dict[str, Any]:
        """Add a picture's row; return where it is and its shape, columns of LATENTS."""
        has_pixels = role == "condition" and self.family == "sdxl"
        kind = "masks" if role == "mask" else "pixels" if has_pixels else "latents"
        channels, factor = (16, 4) if self.family == "flux2" else (4, 2)
        shape = (channels, height // factor, width // factor)
        if kind != "latents":
            shape = (1 if kind == "masks" else 3, height, width)
        values = self._values(random, kind, image, shape)
        dtype = "float32" if kind == "latents" else "uint8"
        columns = dict.fromkeys(values, Column(shape, dtype))
        name, key = table_name(kind, columns), row_key(image=image)
        self.columns[name] = columns
        self.added.setdefault(name, []).append((key, values))
        size = {"channels": shape[0], "height": shape[1], "width": shape[2]}
        return {"key": key, "table": name, "bucket": f"{width}x{height}", **size}

    def _values(
        self,
        random: np.random.Generator,
        kind: str,
        image: tuple[int | str, ...],
        shape: tuple[int, ...],
    ) -> dict[str, Any]:
        """Return the columns of a picture's row, the first axis of size 1."""
        if kind == "masks":
            return {"mask": random.integers(0, 2, (1, *shape)).astype(np.float32)}
        if kind == "pixels":
            return {"pixels": random.integers(0, 256, (1, *shape)).astype(np.float32)}
        values = {"mean": random.standard_normal((1, *shape), np.float32)}
        if self.family != "flux2":
            values["logvar"] = np.full((1, *shape), -2.0, np.float32)
        return values

    def _made_by(self, encoder: str) -> dict[str, str]:
        record = read_record(self.root / f"data/base/{encoder}.json")
        return {"encoder": record.digest, "family": self.family}

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
    """Make a workspace of another size or family, which becomes the working folder."""

    def make(folder: str = ".", **sizes: Any) -> Workspace:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        monkeypatch.chdir(root)
        monkeypatch.delenv("DIFFBASE_STORE", raising=False)
        return Workspace(root, **sizes)

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
