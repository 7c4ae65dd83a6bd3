"""Muon for the matrices inside blocks, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from stages.params.optimizer import Optimizer


class MuonAdamW(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024) of the matrices marked `is_hidden` or all.

    The size of Muon's steps is matched to AdamW's (Liu et al. 2025, eq. 4), so that one rate and
    one decay hold for both. Vectors and convolutions are AdamW's.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], settings: Optimizer
    ) -> None:
        """Split each group in two."""
        nobody = [nn.Parameter(torch.empty(1, 1))]  # torch makes no optimizer of nothing
        decay = settings.weight_decay
        muon = torch.optim.Muon(
            nobody,
            weight_decay=decay,
            momentum=settings.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        adamw = torch.optim.AdamW(
            nobody,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            weight_decay=decay,
            fused=True,
        )
        self._algorithms: dict[str, torch.optim.Optimizer] = {"muon": muon, "adamw": adamw}
        given: list[Any] = list(parameters)
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        super().__init__([part for group in groups for part in self._parts(group)], {"lr": 0.0})

    def _parts(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        hidden = group.get("hidden", group["params"])
        chosen = {id(p) for p in hidden if p.ndim == 2}
        shares = {
            "muon": [p for p in group["params"] if id(p) in chosen],
            "adamw": [p for p in group["params"] if id(p) not in chosen],
        }
        others = {key: value for key, value in group.items() if key != "hidden"}
        return [
            {**self._algorithms[name].defaults, **others, "params": share, "algorithm": name}
            for name, share in shares.items()
            if share
        ]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step each group with its algorithm; `closure` is not called."""
        for name, optimizer in self._algorithms.items():
            optimizer.param_groups = [g for g in self.param_groups if g["algorithm"] == name]
            optimizer.state = self.state
            optimizer.step()
