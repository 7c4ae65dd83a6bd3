"""What training is measured on: a base with random weights and a dataset of noise, on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from models_cases import BATCHES, CASES, THEIRS, Case
from noise_dataset import Noise, write_noise

from modelzoo.controlnet import save_controlnet
from modelzoo.controlnets import Sizes, kind_of
from modelzoo.denoiser import Denoiser, init_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.model import Flux1
from modelzoo.flux.v2.model import Flux2
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.model import SDXL
from stages.artifacts import write_table
from stages.base_record import Part, write_record
from stages.params.read import read
from stages.rows.layout import Column
from stages.tables import to_table
from stages.train.stage import Params, create_trainer
from stages.train.trainer import Trainer

NAMES = {"flux1": "flux", "flux2": "flux2", "sd3": "sd3", "sdxl": "sdxl"}  # in model.type
METHODS = ("lora", "full", "controlnet")
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
RANK = 16
RATE = 1e-4
NEVER = 10**6  # steps
NUM_PICTURES = 17  # the first validates
CONTROLNETS = {  # blocks copied of the medium sizes
    "flux1": {"num_layers": 2, "num_single_layers": 3},
    "flux2": {"num_layers": 2, "num_single_layers": 4},
    "sd3": {"num_layers": 5},
    "sdxl": {},
}
# full size, random weights: FLUX.1 dev and SDXL at 1024 x 1024 pixels
FULL = {
    "flux1": (Flux1, Flux1Config(guidance_embeds=True), 128, 512),
    "sdxl": (SDXL, UNetConfig(), 128, 77),
}


@dataclass(frozen=True)
class Work:
    """A family at a size, and the method it is trained with."""

    family: str  # of NAMES
    size: str  # of CASES, or full
    method: str  # of METHODS
    batch: int  # pictures a step
    dtype: str = "float32"
    quantize: str | None = None  # of the frozen base: int8
    compiled: bool = False

    @property
    def case(self) -> Case:
        """Give the network and its inputs' sizes."""
        if self.size == "full":
            kind, config, side, text = FULL[self.family]
            return Case(kind, THEIRS[kind], config, self.batch, side, text)
        kind, config = CASES[self.family, self.size]
        _, side, text = BATCHES[self.size]
        return Case(kind, THEIRS[kind], config, self.batch, side, text)

    @property
    def latent(self) -> tuple[int, int, int]:
        """Give (C, H, W) of a picture's latents."""
        case = self.case
        channels, side = case.config.in_channels, case.side
        if case.denoiser is Flux2:
            return channels, side // 2, side // 2
        return (channels // 4 if case.denoiser is Flux1 else channels), side, side

    @property
    def pixels(self) -> int:
        """Give the side of a picture."""
        return 8 * self.case.side

    @property
    def text(self) -> dict[str, tuple[int, ...]]:
        """Give the columns of a caption's row."""
        config = self.case.config
        width = getattr(config, "joint_attention_dim", None) or config.cross_attention_dim
        pooled = getattr(config, "pooled_projection_dim", None) or getattr(config, "pooled_dim", 0)
        columns: dict[str, tuple[int, ...]] = {"context": (self.case.num_text, width)}
        return columns | ({"pooled": (pooled,)} if pooled else {})

    @property
    def condition(self) -> tuple[int, int, int]:
        """Give (C, H, W) of what a ControlNet follows."""
        return (3, self.pixels, self.pixels) if self.family == "sdxl" else self.latent

    def training(self) -> dict[str, Any]:
        """Give the section `training` of the parameters."""
        tree: dict[str, Any] = {
            "steps": NEVER,
            "batch_size": self.batch,
            "learning_rate": RATE,
            "validation": {"every": NEVER, "images": 1, "timesteps": [0.5]},
            "checkpoint": {"every": NEVER},
            "method": "full_finetune" if self.method == "full" else self.method,
        }
        if self.family == "sdxl":
            tree["objective"] = {"type": "ddpm", "timestep_sampling": "uniform"}
        if self.method == "lora":
            tree["lora"] = {"rank": RANK, "alpha": RANK, "target_modules": TARGETS}
        if self.quantize is not None:
            tree["base_quantization"] = self.quantize
        if self.method == "controlnet":
            tree["controlnet"] = CONTROLNETS[self.family]
        return tree


def write_workspace(work: Work, root: Path) -> None:
    """Write into `root` what both sides begin with, once for all methods of a family and size."""
    kind = FAMILIES[NAMES[work.family]]
    denoiser = init_denoiser(work.case.denoiser, work.case.config, 0)
    denoiser.network.to(getattr(torch, work.dtype))
    if work.size != "full":
        write_controlnet(work, denoiser, root / "controlnet")
    base = root / "data/base"
    save_denoiser(denoiser, base / kind.folder)
    part = Part(kind.denoiser.NETWORK.__name__, base / kind.folder, "denoiser")
    write_record(base / "denoiser.json", {kind.folder: part}, {})
    settings = kind.scheduler_config({})
    (base / "scheduler").mkdir()
    (base / "scheduler/scheduler_config.json").write_text(json.dumps(settings))
    part = Part(settings["_class_name"], base / "scheduler", "scheduler")
    write_record(base / "scheduler.json", {"scheduler": part}, {})
    write_table(root / "data/images.parquet", to_table([], "images"), "images")
    write_noise(root / "data", root / "store", noise_of(work))


def write_controlnet(work: Work, denoiser: Denoiser, folder: Path) -> None:
    """Write the ControlNet that training begins with, for the other side."""
    controlnet = kind_of(denoiser).grow(denoiser, Sizes(**CONTROLNETS[work.family]), 0)
    save_controlnet(controlnet, folder)


def noise_of(work: Work) -> Noise:
    """Say what the rows hold; conditions are there for every method, and only one reads them."""
    columns = {"mean": Column(work.latent)}
    if work.family != "flux2":
        columns["logvar"] = Column(work.latent)
    condition = None
    if work.method == "controlnet":
        pixels = {"pixels": Column(work.condition, "uint8")}
        condition = ("pixels", pixels) if work.family == "sdxl" else ("latents", columns)
    text = {name: Column(shape) for name, shape in work.text.items()}
    family = NAMES[work.family]
    return Noise(family, NUM_PICTURES, work.pixels, columns, text, condition)


def our_trainer(work: Work, root: Path) -> Trainer:
    """Put the trainer together as the stage does; `root` must be the working folder."""
    buckets = dict.fromkeys(("resolution", "min_bucket_resolution"), work.pixels)
    tree = {
        "experiment": {"name": "speed", "output_dir": "outputs", "seed": 0},
        "model": {"type": NAMES[work.family], "dtype": work.dtype},
        "training": work.training(),
        "data": {"train_path": "none", "store": str(root / "store"), **buckets},
        "hardware": {"threads": torch.get_num_threads(), "compile": work.compiled},
        "tracking": {"mlflow": False},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return create_trainer(read(Params, root / "params.yaml"))
