"""What a ControlNet is shown while pictures are made, and what it adds to each prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from modelzoo.autoencoders import Autoencoder
from modelzoo.controlnet import residuals_of
from modelzoo.controlnets import kind_of
from modelzoo.denoiser import NO_RESIDUALS, Denoiser
from stages.conditions.making import Maker, maker_of
from stages.params.methods import Controlnet
from stages.pixels import UnreadableImageError, open_rgb


class Controlled(Protocol):
    """A prompt, as far as its control goes."""

    @property
    def width(self) -> int:
        """Width in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height in pixels."""
        ...

    @property
    def condition(self) -> str | None:
        """File of the picture to follow, as it is."""
        ...

    @property
    def condition_of(self) -> str | None:
        """File of a picture of which the one to follow is made, as in training."""
        ...


@dataclass(frozen=True)
class Control:
    """The pictures that a batch follows, and what follows them; without any, nothing is added."""

    network: nn.Module | None = None  # a ControlNet; None: the denoiser itself sees the picture
    picture: Tensor | None = None  # as `residuals_of` takes it
    scale: float = 1.0

    def told(self, denoiser: Denoiser, conditioning: Any) -> Any:
        """Add the pictures to a conditioning, where the denoiser itself sees them."""
        if self.network is not None or self.picture is None:
            return conditioning
        return denoiser.with_pictures(conditioning, fill=self.picture)

    def residuals(
        self, denoiser: Denoiser, noisy: Tensor, t: Tensor, conditioning: Any
    ) -> Mapping[str, Any]:
        """Return what `denoiser.predict` takes as residuals."""
        if self.network is None or self.picture is None:
            return NO_RESIDUALS
        return residuals_of(
            self.network, denoiser, noisy, t, conditioning, self.picture, self.scale
        )


NO_CONTROL = Control()


@dataclass(frozen=True)
class Following:
    """What follows pictures, and where these come from.

    Attributes:
        is_there: whether a ControlNet of any kind was trained.
        network: of the kind `network`; None: the denoiser itself sees the pictures.
        scale: of what it adds.
        maker: of conditions; None where every prompt brings its own.
        folder: of the pictures that prompts name.
    """

    is_there: bool
    network: nn.Module | None
    scale: float
    maker: Maker | None
    folder: Path

    def control(
        self, prompts: Sequence[Controlled], denoiser: Denoiser, autoencoder: Autoencoder
    ) -> Control:
        """Open, or make, what is followed for prompts of one size."""
        if not self.is_there:
            return NO_CONTROL
        pixels = torch.stack(
            [_pixels(followed(prompt, self.folder, self.maker)) for prompt in prompts]
        )
        weight = next(autoencoder.parameters())
        if self.network is not None and kind_of(denoiser).sees_pixels:
            return Control(self.network, pixels.to(weight.device), self.scale)
        rows = autoencoder.encode_rows((pixels * 2 - 1).to(weight.device, weight.dtype))
        return Control(self.network, autoencoder.latents(rows), self.scale)


def follow(
    network: nn.Module | None,
    trained: Controlnet | None,
    prompts: Sequence[Controlled],
    folder: Path,
    name: str,
    *,
    sees_condition: bool = False,
) -> Following:
    """Check what the prompts name, and open what makes conditions where one needs it.

    Args:
        network: The ControlNet, if one of the kind `network` was trained.
        trained: How one was trained.
        prompts: All of them.
        folder: Where the pictures that they name are.
        name: Of the prompts, for errors.
        sees_condition: Whether the denoiser itself follows pictures.

    Raises:
        FileNotFoundError: A picture is not there.
        ValueError: A picture has another size than the one that is to be made, or is named for
            nothing, or is not named.
    """
    is_there = network is not None or sees_condition
    for index, prompt in enumerate(prompts):
        is_given = prompt.condition is not None or prompt.condition_of is not None
        if is_there and not is_given:
            raise ValueError(
                f"{name}[{index}]: a ControlNet was trained, but this prompt names no picture to "
                "follow: give condition, or condition_of"
            )
        if is_given and not is_there:
            raise ValueError(
                f"{name}[{index}]: a picture to follow is named, but no ControlNet was trained: "
                "take condition and condition_of out, or train one"
            )
    check_conditions(prompts, folder, name)
    settings = trained or Controlnet()
    makes = any(prompt.condition_of is not None for prompt in prompts)
    maker = maker_of(settings) if makes else None
    return Following(is_there, network, settings.conditioning_scale, maker, folder)


def check_conditions(prompts: Sequence[Controlled], folder: Path, name: str) -> None:
    """Make sure that the pictures to follow are there, and that given ones have the right size.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A picture has another size than the one that is to be made.
    """
    for index, prompt in enumerate(prompts):
        file = prompt.condition or prompt.condition_of
        if file is None:
            continue
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{name}[{index}]: the picture {file!r} is not in {folder}: put it there, or "
                "correct its name"
            )
        if prompt.condition is None:
            continue
        size = _open(folder / prompt.condition).size
        if size != (prompt.width, prompt.height):
            raise ValueError(
                f"{name}[{index}].condition: {prompt.condition!r} is {size[0]}x{size[1]} pixels, "
                f"but it steers a picture of {prompt.width}x{prompt.height}: give one of that size"
            )


def followed(prompt: Controlled, folder: Path, maker: Maker | None) -> Image.Image:
    """Open the picture that a prompt follows, or make it, in RGB and the prompt's size."""
    if prompt.condition is not None:
        image = _open(folder / prompt.condition)
    else:
        assert prompt.condition_of is not None
        assert maker is not None
        image = _open(folder / prompt.condition_of)
        size = (prompt.width, prompt.height)
        if image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
        image = maker(image).convert("RGB")
    return image


def _pixels(image: Image.Image) -> Tensor:
    """Return a picture as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).float() / 255


def _open(path: Path) -> Image.Image:
    try:
        return open_rgb(path.read_bytes()).image
    except UnreadableImageError as error:
        raise ValueError(f"{path} cannot be followed: {error}") from None
