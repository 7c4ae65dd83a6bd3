"""ControlNets of every family: grown from a base by copying its weights, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.denoiser import Denoiser

N = TypeVar("N", bound=nn.Module)


def grown_from(
    kind: type[N],
    config: Any,
    base: nn.Module,
    new: tuple[str, ...],
    fresh: Mapping[str, Tensor] | None = None,
) -> N:
    """Make a ControlNet whose weights are copies of those of the same names in its base.

    Args:
        kind: Built from `config`.
        config: Its sizes.
        base: The network whose weights are copied, not wrapped; not changed. Of a quantised one
            (`modelzoo.quantised`) the weights of its file are copied.
        new: How the names begin that the base does not have. Those weights are zero, so that the
            controlled base predicts at first what the base predicts.
        fresh: Values of new weights that are not zero.

    Raises:
        ValueError: The base lacks a weight, or has it in another shape.
    """
    with torch.device("meta"):
        network = kind(config)
    source, like = (
        getattr(base, "whole_weights", None) or base.state_dict(),
        next(base.parameters()),
    )
    state = {}
    for name, tensor in network.state_dict().items():
        if name.startswith(new):
            value = (fresh or {}).get(name)
            state[name] = (
                torch.zeros(tensor.shape, dtype=like.dtype, device=like.device)
                if value is None
                else value.to(like.device, like.dtype)
            )
        elif name in source and source[name].shape == tensor.shape:
            state[name] = source[name].detach().to(like.device, like.dtype, copy=True)
        else:
            raise ValueError(
                f"{kind.__name__}: the base has no {name!r} of shape {list(tensor.shape)}: give a "
                "denoiser of the same family, before it is wrapped"
            )
    network.load_state_dict(state, assign=True)
    return network


def residuals_of(
    controlnet: nn.Module,
    denoiser: Denoiser,
    noisy: Tensor,
    t: Tensor,
    conditioning: Any,
    picture: Tensor,
    conditioning_scale: float = 1.0,
) -> dict[str, Any]:
    """Give what a ControlNet adds to a prediction, for `denoiser.predict(..., residuals=...)`.

    Args:
        controlnet: Of the denoiser's family.
        denoiser: The base.
        noisy: As `predict` takes it.
        t: As `predict` takes it.
        conditioning: As `predict` takes it, without references and what to fill.
        picture: What is to be followed: latents (B, C, H, W), of SDXL pixels (B, 3, 8 H, 8 W) in
            [0, 1].
        conditioning_scale: Factor of all residuals.

    Raises:
        ValueError: The conditioning has references or what to fill.
    """
    given = denoiser.arguments(noisy, t, conditioning)
    seen = {name: value for name, value in given.items() if value is not None}
    if unseen := sorted(name for name in seen if name.startswith("img_cond")):
        raise ValueError(
            f"ControlNet: the conditioning brings {unseen!r}, but a ControlNet sees neither "
            "references nor what to fill: leave them out"
        )
    followed = denoiser.followed(picture)
    return controlnet(
        **seen, controlnet_cond=followed, conditioning_scale=conditioning_scale
    )._asdict()


def load_controlnet(kind: type[N], folder: Path, dtype: torch.dtype = torch.float32) -> N:
    """Load a ControlNet of diffusers' layout, every key used.

    Raises:
        FileNotFoundError: The folder is not there or not complete.
        ValueError: The folder holds another class, or the weights do not fit.
    """
    config, source = load_component(folder)
    if (name := config.get("_class_name")) != kind.__name__:
        raise ValueError(
            f"{source.where}: config.json names class {name!r}, but {kind.__name__!r} is needed: "
            "give the folder of a ControlNet of this family"
        )
    with torch.device("meta"):
        network = kind(kind.CONFIG.from_dict(config)).to(dtype)  # type: ignore[attr-defined]
    return load_strict(network, source, source.where)


def save_controlnet(controlnet: nn.Module, folder: Path) -> None:
    """Write a ControlNet as a folder that diffusers reads (of FLUX.2 there is no class yet)."""
    config: Any = controlnet.config
    save_component(controlnet.state_dict(), config.to_dict(), folder)
