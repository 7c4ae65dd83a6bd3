"""What a training goes on from, held to it before anything is encoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelzoo.adapters.start import start_from, start_text_from
from stages.artifacts import read_json
from stages.train.checkpoints import FACTS
from stages.train.fingerprint import parts_of
from stages.train.model import Model
from stages.train.resume import PARAMETERS, refuse_other, starting_point
from stages.train.stage import Artifacts, Params, settings_of


def without_lora(params: Params) -> Params:
    """Return the parameters of the same training with new adapters, which need no values."""
    if params.training.lora is None:
        return params
    lora = replace(params.training.lora, init_from=None)
    return replace(params, training=replace(params.training, lora=lora))


def refuse_other_lora(model: Model, params: Params) -> None:
    """Hold the file of `training.lora.init_from` to the adapters, whose values are not here.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another family, rank or kind, or of layers without an adapter.
    """
    lora = params.training.lora
    if lora is None or lora.init_from is None:
        return
    place = Path(lora.init_from)
    start_from(model.denoiser.network, params.family, place, lora.train_text_encoder)
    if model.text is not None:
        start_text_from(model.text.encoders, params.family, place)


def refuse_other_checkpoint(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Hold the parameters and the base of `training.checkpoint.resume_from` to this training's.

    Its encoded data is compared by the training: here it is taken to be the same.

    Raises:
        ValueError: There is no checkpoint, or it is of another training.
    """
    if (start := starting_point(params.training.checkpoint.resume_from)) is None:
        return
    base = [artifacts.denoiser, artifacts.scheduler]
    parts = parts_of([], base, params.training, settings_of(params), start / FACTS)
    if (theirs := start.parent / PARAMETERS).is_file():
        parts["tables"] = read_json(theirs)["tables"]
    refuse_other(start, parts)
