"""Each method learns on each family, in seconds: what `make gym` shows of digits at full length.

A picture has one colour, a vector of latent channels: that of its caption, and a part of its own,
which nothing but another picture of it can tell. The bases have learned the captions' colours.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelzoo.families import FAMILIES
from stages.artifacts import write_csv
from stages.base_record import Part, read_record, write_record
from stages.paired_gain import paired_gain
from stages.train.stage import create_trainer
from tests.train.conftest import Workspace

CAPTIONED, PRIOR = 5, 10  # captions; pictures of the class that the base has made
OBJECTIVES = {"sdxl": {"type": "ddpm"}}
TRAINING = {
    "batch_size": 8,
    "ema": None,
    "checkpoint": {"every": 1000},
    "validation": {"every": 1000, "images": 16, "timesteps": [0.4, 0.7, 0.9]},
}
LORA = {"rank": 4, "alpha": 8.0, "target_modules": ["all-linear"]}
PROMPTS = {"instance_prompt": "sks picture", "class_prompt": "picture"}


@dataclass(frozen=True)
class Task:
    """What a method learns: pictures that the base does not expect."""

    training: dict[str, Any]
    turned: bool = False  # the captions' colours are the opposite ones
    pictures: dict[str, Any] = field(default_factory=dict)  # that show the target's colour
    families: tuple[str, ...] = tuple(FAMILIES)


FLUX = ("flux", "flux2")
TASKS = {
    "lora": Task({"method": "lora", "lora": LORA}, turned=True),
    "full": Task({"method": "full_finetune"}, turned=True),
    "dreambooth": Task({"method": "dreambooth", "lora": LORA, "dreambooth": PROMPTS}, turned=True),
    "controlnet": Task({"method": "controlnet"}, pictures={"has_conditions": True}),
    "control_lora": Task(
        {"method": "controlnet", "controlnet": {"kind": "lora"}, "lora": LORA},
        pictures={"has_conditions": True},
        families=FLUX,
    ),
    "kontext": Task({"editing": "kontext"}, pictures={"references": (1,)}, families=FLUX),
    "fill": Task({"editing": "fill"}, pictures={"has_masks": True}, families=FLUX),
}


class Colours(Workspace):
    """A workspace of pictures of one colour each."""

    def __init__(self, root: Path, family: str, task: Task, base: Path | None, **sizes: Any):
        self.task, self.base = task, base
        super().__init__(root, num_images=60, num_validation=20, family=family, **sizes)

    def params(self, **training: Any) -> Any:
        objective = {"objective": OBJECTIVES.get(self.family, {})}
        return super().params(**{**TRAINING, **objective, **training})

    def _is_subject(self, number: int) -> bool:
        return bool(self.num_prior) and number < self.num_images - self.num_prior

    def _caption(self, number: int, variant: int) -> str:
        word = "sks " if self._is_subject(number) else ""
        return word + super()._caption(number, variant)

    def _values(
        self, random: np.random.Generator, kind: str, image: tuple[Any, ...], shape: tuple[int, ...]
    ) -> dict[str, Any]:
        values = super()._values(random, kind, image, shape)
        number, channels = image[0], 3 if kind == "pixels" else shape[0]
        colour = np.random.default_rng([1, number % CAPTIONED]).standard_normal(16)
        if self._is_subject(number) or (self.task.turned and not self.num_prior):
            colour = -colour
        colour = (colour + np.random.default_rng([2, number]).standard_normal(16))[:channels]
        flat = colour.reshape(1, channels, 1, 1)
        if kind == "latents":
            values["mean"] = (0.1 * values["mean"] + flat).astype(np.float32)
        elif kind == "pixels":
            values["pixels"][:] = np.clip(128 + 50 * flat, 0, 255).round()
        else:
            values["mask"] = np.ones_like(values["mask"])
        return values

    def _write_base(self) -> None:
        super()._write_base()
        if self.base is None:
            return
        record, folder = self.root / "data/base/denoiser.json", FAMILIES[self.family].folder
        (place,) = read_record(record).folders.values()
        shutil.copytree(self.base, place, dirs_exist_ok=True)
        name = FAMILIES[self.family].denoiser.NETWORK.__name__
        write_record(record, {folder: Part(name, place, "trained")}, {})


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a base of a family that knows the captions' colours."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            root = tmp_path_factory.mktemp(family)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(root)
                patch.delenv("DIFFBASE_STORE", raising=False)
                workspace = Colours(root, family, Task({}), None)
                create_trainer(workspace.params(steps=100, learning_rate=1e-2)).fit()
            made[family] = workspace.output / "weights"
        return made[family]

    return make


CELLS = [(family, name) for name, task in TASKS.items() for family in task.families]


@pytest.mark.parametrize(("family", "name"), CELLS)
def test_a_method_learns_what_its_base_cannot_know(
    base_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    name: str,
) -> None:
    """The gain's interval lies above zero, and pictures of others serve surely less."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIFFBASE_STORE", raising=False)
    task = TASKS[name]
    sizes = task.pictures | ({"num_prior": PRIOR} if name == "dreambooth" else {})
    workspace = Colours(tmp_path, family, task, base_of(family), **sizes)
    training = task.training
    if (family, name) == ("sdxl", "controlnet"):
        training = training | {"controlnet": {"embedding_channels": [8, 16]}, "steps": 120}
    settings = {"steps": 60, "learning_rate": 1e-2, **training}
    trainer = create_trainer(workspace.params(**settings))
    trainer.fit()
    gain = paired_gain(workspace.output / "curves/val_loss_by_item.csv")
    print(f"{name} | {family} | {gain.mean:.3f} | {gain.low:.3f}")  # pytest -rP shows it
    assert gain.low > 0
    if task.pictures:
        own = trainer.state.history.validations[-1]
        others = replace(trainer.validation, method=OfOthers(trainer.method)).measure(trainer.state)
        rows = zip(trainer.validation.names, others.by_item, own.by_item, strict=True)
        write_csv(Path("others.csv"), ["item", "base", "trained"], list(rows))
        assert paired_gain(Path("others.csv")).low > 0


class OfOthers:
    """A method that shows each item what belongs to its neighbour."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def losses(self, model: Any, batch: Any) -> Any:
        def turn(picture: Any) -> Any:
            return None if picture is None else picture.roll(1, 0)

        others = {name: turn(getattr(batch, name)) for name in ("masked", "condition")}
        references = tuple(turn(each) for each in batch.references)
        return self.method.losses(model, replace(batch, references=references, **others))
