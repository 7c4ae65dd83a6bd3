"""The base's noise schedule as the parameters ask for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stages.artifacts import read_json, write_json
from stages.params.model import Scheduler
from stages.prepare_base.parts import Base

NAME = "scheduler"
FILE = "scheduler_config.json"


def with_schedule(base: Base, asked: Scheduler, made: Path, home: Path) -> Base:
    """Return the base with the schedule that training, sampling and export are to use.

    Zero terminal SNR (Lin et al. 2023): betas are rescaled until nothing of the data is left at
    the last timestep (algorithm 1), and sampling begins there (section 3.3).

    Args:
        base: The base as it was given or made.
        asked: The section `model.scheduler`.
        made: The folder of what is made here; a changed schedule is written into it.
        home: Where that folder will be in the end.

    Raises:
        ValueError: The base predicts something else than the parameters say, or the noise, which
            is its own input where no data is left.
    """
    if not (base.folders[NAME] / FILE).is_file():
        return base  # which is refused as incomplete
    config = read_json(base.folders[NAME] / FILE)
    predicts = config.get("prediction_type", "epsilon") if asked.type == "ddpm" else None
    if asked.prediction_type not in (None, predicts):
        raise ValueError(
            f"model.scheduler.prediction_type: {asked.prediction_type!r} given, but the base's "
            f"{FILE} says {predicts!r}: set that or null"
        )
    if not asked.zero_terminal_snr:
        return base
    if predicts != "v_prediction":
        raise ValueError(
            f"model.scheduler.zero_terminal_snr: true given, but the base's {FILE} says "
            f"{predicts!r}, which says nothing where no data is left: set false, or give a base "
            "that predicts v"
        )
    (made / NAME).mkdir(parents=True, exist_ok=True)
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    write_json(made / NAME / FILE, config | changes)
    return replace(
        base,
        folders={**base.folders, NAME: made / NAME},
        homes={**base.homes, NAME: home / NAME},
    )
