"""Steps one parameter at a time: in float32 with rounding, or as soon as its gradient is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stages.randomness import generator
from stages.train.optimizers import rounding

COMPENSATION = "compensation"  # slot: int16, what rounding has left out of the weight


class PerParameter(torch.optim.Optimizer):
    """An optimizer whose parameters do not depend on each other, stepped one by one.

    A bfloat16 parameter that is rounded is stepped in float32, with float32 slots; only one such
    copy exists at a time.
    """

    def __init__(
        self, inner: torch.optim.Optimizer, kind: str, seed: int, in_backward: bool
    ) -> None:
        """Take over the parameters of `inner`.

        Args:
            inner: Says how one parameter is stepped.
            kind: "none", "stochastic" or "kahan", see `rounding`.
            seed: Of stochastic rounding.
            in_backward: Step each parameter once its gradient is complete, and free the gradient.
        """
        super().__init__([{**group, "num_steps": 0} for group in inner.param_groups], {})
        self.in_backward = in_backward
        self._inner, self._kind, self._seed = inner, kind, seed
        self._after: dict[int, dict[str, Any]] = {}  # the numbers of each group after the step
        self._squares: list[Tensor] = []  # of the gradients that are gone
        self._places = {
            id(p): (index, place)
            for index, group in enumerate(self.param_groups)
            for place, p in enumerate(group["params"])
        }
        if in_backward:
            for group in self.param_groups:
                for p in group["params"]:
                    p.register_post_accumulate_grad_hook(self._step_in_backward)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step what still has a gradient, and end the step; `closure` is not called."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p)
        for index, numbers in self._after.items():
            self.param_groups[index].update(numbers)
        for group in self.param_groups:
            group["num_steps"] += 1
        self._after = {}

    def take_grad_norm(self) -> Tensor:
        """Return the length of the gradient that the backward pass has used up, ()."""
        squares, self._squares = self._squares, []
        return torch.stack(squares).sum().sqrt()

    @torch.no_grad()
    def _step_in_backward(self, p: Tensor) -> None:
        assert p.grad is not None
        self._squares.append(p.grad.float().square().sum())
        self._step_one(p)
        p.grad = None

    def _step_one(self, p: Tensor) -> None:
        index, _ = self._places[id(p)]
        slots = self.state[p]
        is_rounded = self._kind != "none" and p.dtype == torch.bfloat16
        weight = self._in_float32(p, slots) if is_rounded else p
        one = {**self.param_groups[index], "params": [weight]}
        self._inner.param_groups = [one]
        self._inner.state = defaultdict(dict, {weight: slots})
        self._inner.step()
        del one["params"]
        self._after[index] = one
        if is_rounded:
            self._round(p, weight, slots)

    def _in_float32(self, p: Tensor, slots: dict[str, Any]) -> Tensor:
        """Return the weight that `p` stands for, with its gradient."""
        assert p.grad is not None
        rest = slots.pop(COMPENSATION, None)  # optimizers begin their slots where there are none
        weight = nn.Parameter(p.float() if rest is None else rounding.joined(p, rest))
        weight.grad = p.grad.float()
        return weight

    def _round(self, p: Tensor, weight: Tensor, slots: dict[str, Any]) -> None:
        if self._kind == "kahan":
            rounded, slots[COMPENSATION] = rounding.split(weight)
        else:
            rounded = rounding.stochastic(weight, self._random(p))
        p.copy_(rounded)

    def _random(self, p: Tensor) -> torch.Generator:
        index, place = self._places[id(p)]
        step = self.param_groups[index]["num_steps"]
        seed = int(generator(self._seed, "rounding", index, place, step).integers(2**63))
        return torch.Generator(p.device).manual_seed(seed)
