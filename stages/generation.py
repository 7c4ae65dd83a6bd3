"""Make pictures of prompts with a trained denoiser and the frozen base around it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from modelzoo.autoencoders import Autoencoder, load_autoencoder
from modelzoo.families import Denoiser, family
from modelzoo.process.samplers import euler, guided, shifted_sigmas
from modelzoo.text_encoders import Tokenizer, load_text_encoder, load_tokenizer
from modelzoo.text_encoders.text_encoder import TextEncoder
from stages.artifacts import read_json

Picture = NDArray[np.uint8]  # (H, W, 3)
Sigmas = Callable[[int, int], Tensor]  # steps, image tokens -> (steps + 1,) from 1 to 0

BASE_PARTS = ("vae", "text_encoder", "tokenizer")
MAX_BATCH = 16  # pictures a call; bits depend on it, so it is fixed for each size
BATCH_PIXELS = 1024 * 1024  # a call makes fewer pictures if they are large


class Prompt(Protocol):
    """What to make a picture of, and how large."""

    @property
    def prompt(self) -> str:
        """The text."""
        ...

    @property
    def width(self) -> int:
        """Width in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height in pixels."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn."""

    steps: int
    cfg_scale: float  # classifier-free guidance; 1 is none
    seed: int
    shift: float | None  # of the sampler's t; None: the family's own schedule


@dataclass(frozen=True)
class Generator:
    """A denoiser with the tokenizer, text encoder and autoencoder that belong to it."""

    denoiser: Denoiser
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    own_sigmas: Sigmas
    dtype: torch.dtype
    device: torch.device

    def context(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode prompts as text rows, each (B, ...)."""
        encoded = [self.tokenizer.ids(prompt) for prompt in prompts]
        ids = torch.tensor([one.ids for one in encoded], device=self.device)
        mask = torch.tensor([one.mask for one in encoded], device=self.device)
        return self.text_encoder.encode_rows(ids, mask)

    def predictor(self, text_rows: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """Give the velocity under `text_rows` as a function of noisy latents and t, in float32."""
        conditioning = self.denoiser.conditioning(text_rows)

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            return self.denoiser.predict(noisy.to(self.dtype), t, conditioning).float()

        return predict

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to pictures (B, 3, H, W), about in [-1, 1], in float32."""
        return self.autoencoder.decode(latents.to(self.dtype)).float()


def component_folders(transformer: Path, base: Path) -> dict[str, Path]:
    """Give the folder of each component: the trained transformer, and what `base` names."""
    folders = {part: Path(read_json(base / f"{part}.json")["path"]) for part in BASE_PARTS}
    return {"transformer": transformer, **folders}


def load_generator(family_name: str, folders: Mapping[str, Path], dtype: str) -> Generator:
    """Load the components from their folders, every key used.

    Raises:
        FileNotFoundError: A component is not there.
        ValueError: The family is unknown or weights do not fit.
    """
    torch_dtype: torch.dtype = getattr(torch, dtype)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # as accelerate chooses
    kind = family(family_name)
    denoiser = kind.load_denoiser(folders["transformer"], torch_dtype)
    denoiser.transformer.eval().requires_grad_(False).to(device)
    tokenizer = load_tokenizer(folders["tokenizer"])
    text_encoder = load_text_encoder(folders["text_encoder"], tokenizer, torch_dtype)
    return Generator(
        denoiser=denoiser,
        autoencoder=load_autoencoder(folders["vae"], torch_dtype).to(device),
        text_encoder=text_encoder.to(device),
        tokenizer=tokenizer,
        own_sigmas=kind.sigmas,
        dtype=torch_dtype,
        device=device,
    )


@torch.inference_mode()
def generate(
    generator: Generator, prompts: Sequence[Prompt], sampling: Sampling, name: str
) -> list[Picture]:
    """Make one picture a prompt, in the order of the prompts; prompts of a size share a batch.

    A picture depends on its prompt, its index and the sampling alone: its noise is its own, and a
    batch always has the same number of pictures, the last repeated to fill it.

    Args:
        generator: The loaded components.
        prompts: What to make pictures of.
        sampling: Steps, guidance, seed and shift.
        name: What the progress bar and errors say, such as `sample.prompts`.

    Raises:
        ValueError: A size is no multiple of the autoencoder's cells.
    """
    check_sizes(prompts, generator.autoencoder.spatial_factor, name)
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_size.setdefault((prompt.width, prompt.height), []).append(index)
    empty = generator.context([""]) if sampling.cfg_scale != 1 else {}
    pictures: dict[int, Picture] = {}
    with tqdm(total=len(prompts), desc=name, unit="picture") as bar:
        for (width, height), indices in by_size.items():
            size = batch_size(width, height)
            for start in range(0, len(indices), size):
                chunk = indices[start : start + size]
                filled = chunk + [chunk[-1]] * (size - len(chunk))
                made = _batch(generator, [(i, prompts[i]) for i in filled], empty, sampling)
                pictures.update(zip(chunk, made, strict=False))
                bar.update(len(chunk))
    return [pictures[index] for index in range(len(prompts))]


def check_sizes(prompts: Sequence[Prompt], factor: int, name: str) -> None:
    """Refuse a picture that the autoencoder cannot make.

    Raises:
        ValueError: A width or height is no multiple of `factor` pixels.
    """
    for index, prompt in enumerate(prompts):
        if prompt.width % factor or prompt.height % factor:
            nearest = [max(factor, round(s / factor) * factor) for s in _size(prompt)]
            raise ValueError(
                f"{name}[{index}]: {prompt.width}x{prompt.height} pixels are not multiples of "
                f"{factor}, the autoencoder's cells: use {nearest[0]}x{nearest[1]}"
            )


def batch_size(width: int, height: int) -> int:
    """Give the fixed number of pictures a call for a size in pixels."""
    return max(1, min(MAX_BATCH, BATCH_PIXELS // (width * height)))


def starting_noise(seed: int, index: int, shape: tuple[int, int, int]) -> Tensor:
    """Draw a picture's noise (C, h, w) from (seed, index), on the CPU whatever the device."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


def to_pictures(pixels: Tensor) -> list[Picture]:
    """Turn (B, 3, H, W), about in [-1, 1], into pictures of bytes."""
    bounded = (pixels / 2 + 0.5).clamp(0, 1) * 255
    return list(bounded.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def _batch(
    generator: Generator,
    batch: Sequence[tuple[int, Prompt]],
    empty: Mapping[str, Tensor],
    sampling: Sampling,
) -> list[Picture]:
    width, height = _size(batch[0][1])
    factor = generator.autoencoder.spatial_factor
    shape = (generator.autoencoder.latent_channels, height // factor, width // factor)
    noise = torch.stack([starting_noise(sampling.seed, index, shape) for index, _ in batch])
    if sampling.shift is None:
        sigmas = generator.own_sigmas(sampling.steps, shape[1] * shape[2])
    else:
        sigmas = shifted_sigmas(sampling.steps, sampling.shift)
    predict = generator.predictor(generator.context([prompt.prompt for _, prompt in batch]))
    if empty:
        repeated = {name: row.expand(len(batch), *row.shape[1:]) for name, row in empty.items()}
        predict = guided(predict, generator.predictor(repeated), sampling.cfg_scale)
    return to_pictures(generator.decode(euler(predict, noise.to(generator.device), sigmas)))


def _size(prompt: Prompt) -> tuple[int, int]:
    return prompt.width, prompt.height
