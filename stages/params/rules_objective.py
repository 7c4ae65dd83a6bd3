"""Which keys of `training.objective` its other keys leave unread: those must not be given."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from stages.params.model import Model
from stages.params.objective import Objective

WEIGHTINGS = {
    "flow_matching": ("none", "sigma_sqrt", "cosmap"),
    "ddpm": ("none", "min_snr", "debiased"),
}
# key -> the other key, and with which of its values the first is read
READ_WITH: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "logit_mean": ("timestep_sampling", ("logit_normal",)),
    "logit_std": ("timestep_sampling", ("logit_normal", "sigmoid")),
    "mode_scale": ("timestep_sampling", ("mode",)),
    "base_tokens": ("resolution_shift", ("flux", "sd3")),
    "max_tokens": ("resolution_shift", ("flux",)),
    "base_shift": ("resolution_shift", ("flux",)),
    "max_shift": ("resolution_shift", ("flux",)),
    "snr_gamma": ("weighting", ("min_snr",)),
    "huber_delta": ("loss", ("huber", "smooth_l1")),
    "noise_offset": ("type", ("ddpm",)),
    "resolution_shift": ("type", ("flow_matching",)),
}


def broken_objective(objective: Objective, model: Model) -> Iterator[str]:
    """Yield each broken rule as a sentence that names its keys."""
    defaults = {field.name: field.default for field in dataclasses.fields(Objective)}
    for name, (other, values) in READ_WITH.items():
        given, chosen = getattr(objective, name), getattr(objective, other)
        if given != defaults[name] and chosen not in values:
            yield (
                f"training.objective.{name}: {_show(given)} given, but only {other} "
                f"{' or '.join(map(repr, values))} reads it and {other} is {_show(chosen)}: leave "
                f"it at {_show(defaults[name])}"
            )
    if objective.weighting not in WEIGHTINGS[objective.type]:
        yield (
            f"training.objective.weighting: {objective.weighting!r} given, but type "
            f"{objective.type!r} has {', '.join(WEIGHTINGS[objective.type])}: set one of those"
        )
    if objective.max_tokens <= objective.base_tokens and objective.resolution_shift == "flux":
        yield (
            f"training.objective.max_tokens: {objective.max_tokens} given, more than base_tokens "
            f"({objective.base_tokens}) expected: raise it"
        )
    yield from _zero_terminal_snr(objective, model)
    if objective.guidance != 1 and _embeds_no_guidance(model):
        yield (
            f"training.objective.guidance: {objective.guidance:g} given, but this model of "
            f"model.type {model.type!r} embeds none: set 1"
        )


def _zero_terminal_snr(objective: Objective, model: Model) -> Iterator[str]:
    if not model.scheduler.zero_terminal_snr:
        return
    known = model.scheduler.prediction_type
    if model.scheduler.type != "ddpm":
        yield (
            f"model.scheduler.zero_terminal_snr: true given, but {model.scheduler.type!r} has no "
            "data at its last time anyhow: set false"
        )
    elif known == "epsilon" or (known is None and model.from_scratch is not None):
        yield (
            "model.scheduler.zero_terminal_snr: true given, but model.scheduler.prediction_type "
            "'epsilon' predicts its own input where no data is left: set 'v_prediction'"
        )
    elif objective.weighting != "none":
        yield (
            f"training.objective.weighting: {objective.weighting!r} given, but it counts the last "
            "timestep for nothing, which model.scheduler.zero_terminal_snr is there for: set "
            "'none'"
        )


def _embeds_no_guidance(model: Model) -> bool:
    """Tell whether the parameters alone say that nothing reads guidance."""
    if model.type in ("flux", "flux2"):
        return model.transformer is not None and not model.transformer.guidance_embeds
    return True


def _show(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float | int) else repr(value)
