"""Optimizers by their name in `training.optimizer.type`; the plan sets the rate of each step.

Libraries beside torch are imported by the one who asks for them: `stages.params.rules_optimizer`
has said before whether they are there.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from stages.params.optimizer import Optimizer
from stages.train.optimizers.muon import MuonAdamW

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]  # or groups of them
Create = Callable[[Parameters, Optimizer], torch.optim.Optimizer]


def adamw(parameters: Parameters, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); fused: one kernel a tensor, on CPU too."""
    return torch.optim.AdamW(
        parameters,
        lr=0.0,
        **_of_adam(settings),
        fused=True,
    )


def adamw_8bit(parameters: Parameters, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW with slots of 8 bits in blocks of 256 (Dettmers et al. 2022), on CPU too.

    The slots of tensors below 4096 elements stay in float32.
    """
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(
        parameters,
        lr=0.0,
        **_of_adam(settings),
    )
    return made


def adafactor(parameters: Parameters, settings: Optimizer) -> torch.optim.Optimizer:
    """Adafactor (Shazeer and Stern 2018): the second moment of a matrix by its rows and columns.

    The paper's step is relative to the root mean square of the weight (at least eps2). With
    eps2 = 1 the rate is that of a step itself, as other optimizers', for all weights below 1.
    """
    return torch.optim.Adafactor(
        parameters, lr=0.0, eps=(None, 1.0), weight_decay=settings.weight_decay
    )


def lion(parameters: Parameters, settings: Optimizer) -> torch.optim.Optimizer:
    """Lion (Chen et al. 2023): the sign of an interpolated momentum."""
    from bitsandbytes.optim import Lion

    made: torch.optim.Optimizer = Lion(
        parameters,
        lr=0.0,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    return made


def prodigy(parameters: Parameters, settings: Optimizer) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko and Defazio 2024): AdamW that finds its rate; the plan's is a factor."""
    from prodigyopt import Prodigy

    with contextlib.redirect_stdout(io.StringIO()):  # it prints that the decay is decoupled
        made: torch.optim.Optimizer = Prodigy(
            parameters,
            lr=1.0,
            **_of_adam(settings),
            use_bias_correction=True,
            safeguard_warmup=True,
        )
    return made


def schedule_free(parameters: Parameters, settings: Optimizer) -> torch.optim.Optimizer:
    """Schedule-free AdamW (Defazio et al. 2024): an average of its iterates is what is kept."""
    from schedulefree import AdamWScheduleFree

    made = AdamWScheduleFree(
        parameters,
        lr=0.0,
        **_of_adam(settings),
    )
    made.train()  # the average is read off its slots, see `averages`
    optimizer: torch.optim.Optimizer = made
    return optimizer


def _of_adam(settings: Optimizer) -> dict[str, Any]:
    """Give what Adam and all that descends from it are told."""
    return {
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }


def muon(parameters: Parameters, settings: Optimizer) -> torch.optim.Optimizer:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    return MuonAdamW(parameters, settings)


OPTIMIZERS: Mapping[str, Create] = {
    "adamw": adamw,
    "adamw_8bit": adamw_8bit,
    "adafactor": adafactor,
    "lion": lion,
    "prodigy": prodigy,
    "schedule_free": schedule_free,
    "muon": muon,
}
