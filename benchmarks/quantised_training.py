"""Train LoRA on a whole base and on packed ones, and compare what is gained.

Run `python PATH/benchmarks/quantised_training.py STEPS [KIND ...]` in the folder that `make gym
EXPERIMENT=gym_flux2_lora` leaves in `demos/`; its own outputs stay as they are. It prints the
validation loss of each base, what adapters gain on it, and what the same adapters gain on the whole
base.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from modelzoo.quantised.kinds import KINDS
from stages.base_record import read_record
from stages.params.read import read
from stages.train.stage import Artifacts, Params, create_trainer
from stages.train.trainer import Trainer
from stages.trained import load_trained


def main() -> None:
    """Print the table, of all kinds if none is named."""
    steps, kinds = int(sys.argv[1]), sys.argv[2:] or ["whole", *KINDS]
    tree: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())
    tree["training"] |= {"steps": steps, "lr_schedule": {"type": "constant"}}
    tree["training"]["validation"]["every"] = steps
    tree["tracking"] = {"mlflow": False}
    tree["hardware"]["mixed_precision"] = "no"  # YAML reads a bare no as false
    with tempfile.TemporaryDirectory() as folder:
        artifacts = Artifacts(output=Path(folder, "train"))
        whole = trainer_of(tree, None, artifacts)
        of_whole = loss(whole)
        print("base | validation loss | gain on it | gain on the whole base", flush=True)
        for name in kinds:
            trainer = trainer_of(tree, None if name == "whole" else name, artifacts)
            before = loss(trainer)
            trainer.fit()
            gains = (before - loss(trainer), of_whole - loss_of_trained(whole, artifacts))
            print(name, f"{before:.4f}", *(f"{gain:.4f}" for gain in gains), sep=" | ", flush=True)


def trainer_of(tree: dict[str, Any], kind: str | None, artifacts: Artifacts) -> Trainer:
    """Create a trainer whose base is of a kind."""
    tree["training"]["base_quantization"] = kind
    path = artifacts.output.with_name("params.yaml")
    path.write_text(yaml.safe_dump(tree))
    return create_trainer(read(Params, path), artifacts)


def loss_of_trained(whole: Trainer, artifacts: Artifacts) -> float:
    """Measure the loss of the adapters that were written, in the whole base."""
    base, weights = read_record(artifacts.denoiser), artifacts.output / "weights"
    loaded = load_trained(whole.params.family, weights, base, torch.float32)
    whole.state.model.denoiser = loaded.denoiser
    return loss(whole)


def loss(trainer: Trainer) -> float:
    """Measure the loss on the validation grid."""
    return trainer.validation.measure(trainer.state).loss


if __name__ == "__main__":
    main()
