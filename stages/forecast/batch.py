"""A micro-batch of given sizes whose values are of no interest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from modelzoo.autoencoders import init_autoencoder
from modelzoo.controlnets import kind_of
from modelzoo.denoiser import Denoiser
from stages.forecast.base import Base
from stages.needs import MicroBatch
from stages.params.roles import roles_read
from stages.train.batches import Batch
from stages.train.live_text import section_of
from stages.train.stage import Params


@dataclass(frozen=True)
class Rows:
    """The sizes of what is stored of a sample.

    Attributes:
        channels: of latents.
        factor: pixels along a side of a latent's cell.
        text: shapes of the rows of its caption, by name.
        roles: of the pictures that the training reads beside the target.
        num_tokens: of a caption, where text encoders learn; 0: none does.
        is_prior: whether items preserve DreamBooth's prior by the base's predictions.
    """

    channels: int
    factor: int
    text: Mapping[str, tuple[int, ...]]
    roles: Collection[str]
    num_tokens: int
    is_prior: bool


def batch_of(sizes: MicroBatch, rows: Rows, denoiser: Denoiser) -> Batch:
    """Make a micro-batch; in a FakeTensorMode it takes no memory."""
    num, width, height = sizes.size, sizes.width, sizes.height

    def latents(of_width: int = width, of_height: int = height) -> torch.Tensor:
        return torch.randn(num, rows.channels, of_height // rows.factor, of_width // rows.factor)

    text = {name: torch.randn(num, *shape) for name, shape in rows.text.items()}
    if rows.num_tokens:
        from modelzoo.text_encoders.live import IDS, MASK  # slow

        text[IDS] = torch.zeros(num, rows.num_tokens, dtype=torch.int64)
        text[MASK] = torch.ones_like(text[IDS])
    pictures: dict[str, Any] = {"references": tuple(latents(*each) for each in sizes.references)}
    if "mask" in rows.roles:
        pictures |= {"mask": torch.zeros(num, 1, height, width), "masked": latents()}
    if "condition" in rows.roles:
        sees_pixels = kind_of(denoiser).sees_pixels
        pictures["condition"] = torch.rand(num, 3, height, width) if sees_pixels else latents()
    return Batch(
        names=tuple(map(str, range(num))),
        latents=latents(),
        noise=latents(),
        t=torch.full((num,), 0.5),
        weights=torch.ones(num),
        conditions={**text, "sizes": torch.tensor([[height, width, 0, 0, height, width]] * num)},
        prior=torch.ones(num).bool() if rows.is_prior else None,
        visits=(0,) * num,
        **pictures,
    )


def rows_of(params: Params, base: Base, lengths: Mapping[str, int], denoiser: Denoiser) -> Rows:
    """Return the sizes of the rows of a training; `lengths` are the tokens of a text by kind."""
    settings = params.training
    with torch.device("meta"):
        autoencoder = init_autoencoder(base.autoencoder, 0)
    return Rows(
        channels=autoencoder.latent_channels,
        factor=autoencoder.spatial_factor,
        text=denoiser.row_shapes(lengths),
        roles=roles_read(settings),
        num_tokens=0 if section_of(settings) is None else sum(lengths.values()),
        is_prior=settings.dreambooth is not None and settings.dreambooth.prior == "prediction",
    )
