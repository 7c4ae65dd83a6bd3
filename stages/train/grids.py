"""Grids of pictures while training, drawn by code that no weight depends on."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate import PartialState
from torch import nn

from modelzoo.denoiser import Denoiser
from stages.params.tracking import Samples
from stages.tracking import Run
from stages.train.compiling import eagerly
from stages.train.history import Metrics
from stages.train.progress import say
from stages.train.state import TrainState

MODULE = "stages.training_grids"  # named, not imported: see there


class Grids(Protocol):
    """What draws."""

    def check(self, denoiser: Denoiser, controlnet: nn.Module | None) -> None:
        """Refuse what could not be drawn."""
        ...

    def draw(
        self,
        denoiser: Denoiser,
        controlnet: nn.Module | None,
        time_offset: float | None,
        step: int,
        path: Path | None,
        text: nn.Module | None = None,
    ) -> None:
        """Draw the grid of a step; write it unless `path` is None; `text` is what of it learns."""
        ...


def open_grids(settings: Samples | None, params_file: Path, base: Path) -> Grids | None:
    """Prepare the grids of `tracking.samples`; the text encoders are gone when this returns.

    Args:
        settings: None: nothing is drawn.
        params_file: params.yaml, whose section `sample` says what is drawn.
        base: The folder of the base's records.

    Raises:
        FileNotFoundError, ValueError: Something that is drawn with is not there, or not so.
    """
    if settings is None:
        return None
    drawing, device = importlib.import_module(MODULE), PartialState().device
    grids: Grids = drawing.open_grids(settings, params_file, base, device)
    return grids


@dataclass(frozen=True)
class Draw:
    """Draws the state as it would be kept, and leaves no trace in what follows.

    Every process draws, as some of the weights may be another's; the first one writes. A grid is
    drawn again where training was killed before the next checkpoint: with the same bytes.
    """

    grids: Grids
    folder: Path  # of the grids, which no stage clears
    run: Run
    is_compiled: bool  # what is trained

    def __call__(self, state: TrainState, metrics: Metrics | None = None) -> None:
        """Draw the grid of the present step."""
        name = f"step-{state.step:08d}.png"
        path = self.folder / name if state.peers.is_first else None
        devices = [state.device] if state.device.type == "cuda" else []
        dice, plain = torch.random.fork_rng(devices), eagerly(self.is_compiled)
        with state.evaluation() as model, dice, plain:
            offset = None if model.editing is None else model.editing.time_offset
            drawn_by = model.denoiser, model.controlnet, offset
            self.grids.draw(*drawn_by, state.step, path, model.text)
        if path is not None:
            self.run.log_artifact(path, "samples")
            say(f"step {state.step}: pictures in {path}")
