"""Copies of this repository in which DVC runs the whole graph at toy sizes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import psutil
import yaml
from PIL import Image

from stages.artifacts import sha256_file
from stages.make_digits import digits

PROJECT = Path(__file__).parents[2]
OWN_DATA = Path("data/raw/mine")
OUTSIDE = ("PYTHON", "DVC_", "GIT_", "MLFLOW_", "DIFFBASE_", "PREFECT_")  # settings of the caller

# What `make demo` runs, on one's own folder and so small that starting Python is most of the work.
EXPERIMENT = "params/experiments/digits_flux2.yaml"
TOY = (
    f"data.train_path={OWN_DATA}",
    "data.validation_fraction=0.1",
    "data.max_bad_fraction=0.1",
    "hardware.threads=1",
    "hardware.encode_batch_size=8",
    "model.from_scratch.vae_steps=4",
    "model.from_scratch.vae_batch_size=8",
    "model.vae.block_out_channels=[8, 8, 8]",
    "model.vae.norm_num_groups=4",
    "model.vae.latent_channels=4",
    "model.transformer.in_channels=16",
    "model.transformer.hidden_size=32",
    "model.transformer.num_attention_heads=2",
    "model.transformer.axes_dims_rope=[4, 4, 4, 4]",
    "model.transformer.num_layers=1",
    "model.transformer.num_single_layers=1",
    "model.text_encoder.qwen3.hidden_size=16",
    "model.text_encoder.qwen3.num_layers=2",
    "model.text_encoder.qwen3.num_attention_heads=2",
    "model.text_encoder.qwen3.num_key_value_heads=1",
    "model.text_encoder.qwen3.head_dim=8",
    "model.text_encoder.qwen3.intermediate_size=32",
    "model.text_encoder.qwen3.output_layers=[1, 2]",
    "training.steps=200",  # more than a second after the first checkpoint: time to be killed in
    "training.batch_size=8",
    "training.lr_schedule.warmup_steps=4",
    "training.validation.every=50",
    "training.validation.images=2",
    "training.validation.timesteps=[0.2, 0.6]",
    "training.checkpoint.every=10",
    "training.log_every=20",
    "sample.steps=2",
    "sample.prompts=[{prompt: handwritten digits one four, width: 64, height: 32}]",
    "evaluate.steps=2",
    "evaluate.num_prompts=4",
    "tracking.system_metrics=false",
)


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    output: str  # stdout and stderr together

    def lines(self, start: str) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith(start)]

    def ran(self) -> list[str]:
        """Stages that DVC started, in that order."""
        return [line.split("'")[1] for line in self.lines("Running stage '")]


class Workspace:
    """A Git and DVC repository of its own, and the processes started in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        kept = {name: text for name, text in os.environ.items() if not name.startswith(OUTSIDE)}
        self.env = kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(root.with_name(f"{root.name}-dvc")),
            "WORKSPACE": str(root),  # how to find the processes that belong here
        }

    @property
    def mine(self) -> Path:
        return self.root / OWN_DATA

    @property
    def store(self) -> Path:
        return self.root / ".dvc/diffbase"

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, timeout: float = 300) -> Finished:
        process = self.start(*command)
        output, _ = process.communicate(timeout=timeout)
        return Finished(process.returncode, output)

    def ok(self, *command: str) -> Finished:
        finished = self.run(*command)
        assert finished.code == 0, f"{' '.join(command)}:\n{finished.output}"
        return finished

    def python(self, *arguments: str) -> Finished:
        return self.run("python", *arguments)

    def commit(self) -> None:
        self.ok("git", "add", "--all")
        self.ok("git", "commit", "-q", "-m", "a test")

    def copy(self, root: Path) -> Workspace:
        """Copy everything but MLflow's database and exports, which name places in this one."""

        def place(source: str, target: str) -> None:
            if "/.dvc/cache/files/" in source:  # DVC never writes into them, it replaces them
                os.link(source, target)
            else:
                shutil.copy2(source, target)

        left_out = shutil.ignore_patterns("mlflow.db*", "mlartifacts", "outputs", "tmp")
        shutil.copytree(self.root, root, copy_function=place, ignore=left_out)
        return Workspace(root)

    def bytes(self, *roots: str) -> dict[str, str]:
        """The digest of every file below some folders."""
        files = [path for root in roots for path in sorted((self.root / root).rglob("*"))]
        return {str(p.relative_to(self.root)): sha256_file(p) for p in files if p.is_file()}

    def num_rows(self, kind: str) -> int:
        """Rows that the store holds: "latents" or "text"."""
        tables = (self.store / "rows").glob(f"{kind}*.lance")
        return sum(lance.dataset(str(table)).count_rows() for table in tables)

    def metadata(self, change: Callable[[list[dict[str, Any]]], None]) -> None:
        """Edit the captions of one's own folder."""
        path = self.mine / "metadata.json"
        rows = json.loads(path.read_text())
        change(rows)
        path.write_text(json.dumps(rows, indent=2))

    def lock(self) -> dict[str, Any]:
        """What dvc.lock says, whatever the order of the stages."""
        lock: dict[str, Any] = yaml.safe_load((self.root / "dvc.lock").read_text())
        return lock

    def train_until_a_checkpoint(
        self, *command: str
    ) -> tuple[subprocess.Popen[str], psutil.Process]:
        """Start DVC; return it and the trainer as soon as the first checkpoint is there."""
        dvc = self.start(*command)
        checkpoints = self.store / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("*/step-*")), 180, "no checkpoint", pause=0.002)
        (trainer,) = self.trainers()
        return dvc, trainer

    def processes(self) -> list[psutil.Process]:
        """The processes that were started here, at whatever remove."""
        return [one for one in psutil.process_iter() if self._owns(one)]

    def trainers(self) -> list[psutil.Process]:
        command = ["-m", "stages.train"]
        return [one for one in self.processes() if one.cmdline()[1:] == command]

    def kill_all(self) -> None:
        for process in self.processes():
            process.kill()

    def _owns(self, process: psutil.Process) -> bool:
        try:
            is_running = process.status() != psutil.STATUS_ZOMBIE
            return is_running and process.environ().get("WORKSPACE") == str(self.root)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def create(root: Path) -> Workspace:
    """Make a repository of this one's files and one's own small dataset; nothing has run yet."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    for name in names.split("\0"):
        if (PROJECT / name).is_file():  # a deleted one is still listed
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, root / name)
    for lock in (root / "dvc.lock", root / "data/raw/dvc.lock"):
        lock.unlink(missing_ok=True)
    workspace = Workspace(root)
    workspace.ok("git", "init", "-q")
    workspace.ok("git", "config", "user.name", "A Test")
    workspace.ok("git", "config", "user.email", "test@localhost")
    write_own_data(workspace.mine)
    workspace.ok("dvc", "add", "-q", str(OWN_DATA))
    workspace.ok("python", "-m", "stages.params", "use", EXPERIMENT, *TOY)
    workspace.commit()
    return workspace


def write_own_data(folder: Path) -> None:
    """Write 24 composites of real digits, all captions different."""
    rng = np.random.default_rng(0)
    scans = digits.split_scans(rng)[1]
    numbers = [tuple(int(digit) for digit in str(n)) for n in (*range(8), *range(40, 48))]
    numbers += [(i, 9 - i, (3 * i) % 10) for i in range(8)]
    digits.write_dataset(folder, scans, numbers, rng)


def write_picture(path: Path, seed: int) -> None:
    """Write a 32x32 picture like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def wait_until(claim: Callable[[], Any], seconds: float, complaint: str, pause: float) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, complaint
        time.sleep(pause)
