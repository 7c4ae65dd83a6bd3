"""Pictures that a prompt names: cut to its size, and encoded as what the denoiser is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from modelzoo.autoencoders import Autoencoder
from modelzoo.flux.components.editing import fill_channels
from stages.pixels import UnreadableImageError, open_rgb

WHITE_FROM = 128  # grey value from which a pixel of a mask is to be filled


class Edited(Protocol):
    """A prompt, as far as its pictures go."""

    @property
    def width(self) -> int:
        """Width in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height in pixels."""
        ...

    @property
    def references(self) -> Sequence[str]:
        """Files of the pictures to look at, or of the one to be filled."""
        ...

    @property
    def mask(self) -> str | None:
        """File of what is filled: white."""
        ...


@dataclass(frozen=True)
class Seen:
    """What a batch's denoiser is told of pictures."""

    references: tuple[Tensor, ...] = ()  # latents (B, C, h, w) of each
    fill: Tensor | None = None  # (B, C', h, w), see `Denoiser.with_pictures`
    time_offset: float | None = None
    original: Tensor | None = None  # latents (B, C, h, w) of pictures to be filled
    is_kept: Tensor | None = None  # (B, 1, h, w), where no pixel of a cell is filled

    def __bool__(self) -> bool:
        return bool(self.references) or self.fill is not None

    def restored(self, latents: Tensor) -> Tensor:
        """Give latents (B, C, h, w) the given pictures' own wherever a cell is kept whole."""
        if self.original is None or self.is_kept is None:
            return latents
        return torch.where(self.is_kept, self.original.to(latents.dtype), latents)


NOTHING_SEEN = Seen()


def check_pictures(prompts: Sequence[Edited], folder: Path, name: str) -> None:
    """Make sure that every picture is there and that masks have one picture to fill.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A mask without exactly one reference.
    """
    for index, prompt in enumerate(prompts):
        where = f"{name}[{index}]"
        if prompt.mask is not None and len(prompt.references) != 1:
            raise ValueError(
                f"{where}.mask: {prompt.mask!r} given with {len(prompt.references)} references, "
                "but it says what is filled in exactly one: name that picture in references"
            )
        for file in files(prompt):
            if not (folder / file).is_file():
                raise FileNotFoundError(
                    f"{where}: the picture {file!r} is not in {folder}: put it there, or correct "
                    "its name"
                )


def files(prompt: Edited) -> list[str]:
    """List the files that a prompt names."""
    return [*prompt.references, *([] if prompt.mask is None else [prompt.mask])]


def kind_of(prompt: Edited) -> tuple[int, bool]:
    """Tell prompts apart that cannot share a batch."""
    return len(prompt.references), prompt.mask is not None


def encode(
    prompts: Sequence[Edited],
    folder: Path,
    autoencoder: Autoencoder,
    device: torch.device,
    time_offset: float | None,
) -> Seen:
    """Open and encode the pictures of prompts of one size and kind.

    Raises:
        ValueError: A picture cannot be read.
    """
    num_references, has_mask = kind_of(prompts[0])
    given = [
        torch.stack([open_picture(folder / prompt.references[i], prompt) for prompt in prompts])
        for i in range(num_references)
    ]
    dtype = next(autoencoder.parameters()).dtype
    latents = tuple(
        autoencoder.latents(autoencoder.encode_rows(each.to(device, dtype))) for each in given
    )
    if not has_mask:
        return Seen(references=latents, time_offset=time_offset)
    masks = torch.stack([open_mask(folder / str(prompt.mask), prompt) for prompt in prompts])
    filled = adaptive_max_pool2d(masks, latents[0].shape[-2:])
    return Seen(
        fill=fill_channels(given[0], masks, autoencoder, device),
        original=latents[0],
        is_kept=filled.to(device) == 0,
    )


def all_filled(autoencoder: Autoencoder, count: int, height: int, width: int) -> Seen:
    """Let a Fill model see pictures of which nothing is kept."""
    parameter = next(autoencoder.parameters())
    grey = torch.zeros(count, 3, height, width, dtype=parameter.dtype)
    mask = torch.ones(count, 1, height, width)
    return Seen(fill=fill_channels(grey, mask, autoencoder, parameter.device))


def pasted(
    pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[Edited], folder: Path
) -> list[NDArray[np.uint8]]:
    """Give pictures (H, W, 3) the very pixels of those to be filled, wherever nothing is filled."""
    return [
        picture
        if prompt.mask is None
        else np.where(
            open_mask(folder / prompt.mask, prompt)[0].numpy()[..., None] == 0,
            _cut(folder / prompt.references[0], prompt),
            picture,
        )
        for picture, prompt in zip(pictures, prompts, strict=True)
    ]


def open_picture(path: Path, prompt: Edited) -> Tensor:
    """Open a picture as (3, H, W) in [-1, 1]: its middle, in the prompt's size."""
    pixels = torch.from_numpy(_cut(path, prompt)).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1


def open_mask(path: Path, prompt: Edited) -> Tensor:
    """Open a mask as (1, H, W) of 0 and 1, cut as the picture is."""
    grey = Image.fromarray(_cut(path, prompt)).convert("L")
    return torch.from_numpy((np.asarray(grey) >= WHITE_FROM).astype(np.float32))[None]


def _cut(path: Path, prompt: Edited) -> NDArray[np.uint8]:
    """Resize (Lanczos) until the prompt's size is covered and keep the middle."""
    try:
        image = open_rgb(path.read_bytes()).image
    except UnreadableImageError as error:
        raise ValueError(f"{path} cannot be looked at: {error}") from None
    size = (prompt.width, prompt.height)
    if image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return np.array(image, dtype=np.uint8)
