"""Make pictures of prompts with a trained denoiser and the frozen base around it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from modelzoo.autoencoders import Autoencoder, load_autoencoder
from modelzoo.denoiser import Denoiser, load_denoiser
from modelzoo.families import family
from modelzoo.process.processes import Process, process_of
from modelzoo.process.samplers import guided
from modelzoo.text_encoders import PromptTokenizer, load_text_encoders
from modelzoo.text_encoders.text_encoder import TextEncoder
from stages.artifacts import read_json
from stages.base_record import Record, read_record
from stages.control import NO_CONTROL, Control, Controlled, Following, follow
from stages.params.methods import Controlnet
from stages.prompt_pictures import (
    NOTHING_SEEN,
    Edited,
    Seen,
    check_pictures,
    encode,
    kind_of,
    pasted,
)
from stages.tokenizers import open_tokenizers
from stages.trained import add_trained_text, load_trained

Picture = NDArray[np.uint8]  # (H, W, 3)

BASE_COMPONENTS = ("denoiser", "vae", "text_encoder", "tokenizer", "scheduler")
MAX_BATCH = 16  # pictures a call; bits depend on it, so it is fixed for each size
BATCH_PIXELS = 1024 * 1024  # a call makes fewer pictures if they are large


class Prompt(Edited, Controlled, Protocol):
    """What to make a picture of, and how large."""

    @property
    def prompt(self) -> str:
        """The text."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn."""

    steps: int
    cfg_scale: float  # classifier-free guidance; 1 is none
    seed: int
    guidance: float | None = None  # told to models that embed it; None: as the model is sampled
    shift: float | None = None  # of the sampler's t; None: the model's own schedule
    sampler: str | None = None  # None: the model's own
    time_offset: float | None = None  # of references along t; None: the model's own
    controlnet: Controlnet | None = None  # how one was trained, if one was
    keep_unmasked: str = "pixels"  # or "latents", "none": see `generate`


@dataclass(frozen=True)
class Generator:
    """A denoiser with the tokenizers, text encoders and autoencoder that belong to it."""

    denoiser: Denoiser
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    tokenizer: PromptTokenizer
    process: Process
    dtype: torch.dtype
    device: torch.device
    controlnet: nn.Module | None = None  # without it the denoiser predicts alone
    sees_condition: bool = False  # whether the denoiser itself sees a picture to follow

    def conditions(self, prompts: Sequence[str], width: int, height: int) -> dict[str, Tensor]:
        """Give what stands for prompts: the text encoders' rows, and the size of the pictures."""
        ids, mask = (
            torch.tensor(flat, device=self.device)
            for flat in zip(*(self.tokenizer.tokens(prompt) for prompt in prompts), strict=True)
        )
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device)
        text = self.text_encoder.encode_rows(ids, mask)
        return {**text, "sizes": sizes.expand(len(prompts), -1)}

    def predictor(
        self,
        conditions: Mapping[str, Tensor],
        guidance: float | None = None,
        seen: Seen = NOTHING_SEEN,
        control: Control = NO_CONTROL,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Give the prediction as a function of noisy latents and t, in float32."""
        conditioning = self.denoiser.conditioning(conditions, guidance)
        if seen:
            conditioning = self.denoiser.with_pictures(
                conditioning, seen.references, seen.fill, seen.time_offset
            )
        conditioning = control.told(self.denoiser, conditioning)

        def predict(noisy: Tensor, t: Tensor) -> Tensor:
            noisy = noisy.to(self.dtype)
            residuals = control.residuals(self.denoiser, noisy, t, conditioning)
            return self.denoiser.predict(noisy, t, conditioning, residuals).float()

        return predict

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to pictures (B, 3, H, W), about in [-1, 1], in float32."""
        return self.autoencoder.decode(latents.to(self.dtype)).float()


def controlnet_of(summary: Mapping[str, Any]) -> Controlnet | None:
    """Read from train's summary how a ControlNet was trained, if one was."""
    return None if summary["controlnet"] is None else Controlnet(**summary["controlnet"])


def base_records(base: Path) -> dict[str, Record]:
    """Read the record of each component of the base."""
    return {name: read_record(base / f"{name}.json") for name in BASE_COMPONENTS}


def load_generator(
    family_name: str, trained: Path, components: Mapping[str, Record], dtype: str
) -> Generator:
    """Load what was trained and the base around it, every key used.

    Raises:
        FileNotFoundError: A component is not there.
        ValueError: The family is unknown or weights do not fit.
    """
    torch_dtype: torch.dtype = getattr(torch, dtype)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # as accelerate chooses
    loaded = load_trained(family_name, trained, components["denoiser"], torch_dtype)
    for network in (loaded.denoiser.network, loaded.controlnet):
        if network is not None:
            network.eval().requires_grad_(False).to(device)
    tokenizer = open_tokenizers(family_name, components["tokenizer"])
    text = components["text_encoder"]
    text_encoder = load_text_encoders(
        family_name, text.folders, tokenizer, torch_dtype, text.settings["zero_empty"]
    )
    add_trained_text(family_name, text_encoder, trained)
    vae, scheduler = (components[name].folders[name] for name in ("vae", "scheduler"))
    return Generator(
        denoiser=loaded.denoiser,
        controlnet=loaded.controlnet,
        sees_condition=loaded.sees_condition,
        autoencoder=load_autoencoder(vae, torch_dtype).to(device),
        text_encoder=text_encoder.to(device),
        tokenizer=tokenizer,
        process=process_of(read_json(scheduler / "scheduler_config.json"), family_name),
        dtype=torch_dtype,
        device=device,
    )


def uncontrolled(
    generator: Generator, family_name: str, components: Mapping[str, Record]
) -> Generator:
    """Return the base alone, where a ControlNet of either kind was trained."""
    if not generator.sees_condition:
        return replace(generator, controlnet=None)
    kind = family(family_name)
    folder = components["denoiser"].folders[kind.folder]
    denoiser = load_denoiser(kind.denoiser, folder, generator.dtype)
    denoiser.network.eval().requires_grad_(False).to(generator.device)
    return replace(generator, denoiser=denoiser, sees_condition=False)


@torch.no_grad()
def generate(
    generator: Generator,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    name: str,
    folder: Path = Path(),
    *,
    places: Sequence[int] | None = None,
    keep: Callable[[int, Picture], None] = lambda place, picture: None,
    has_bar: bool = True,
) -> list[Picture]:
    """Make one picture a prompt, in the order of the prompts; prompts of a size share a batch.

    A picture depends on its prompt, its index and the sampling alone: its noise is its own, and a
    batch always has the same number of pictures, the last repeated to fill it. Pictures that a
    prompt names are seen with the prompt and, where there is classifier-free guidance, without it.
    Where a mask fills nothing, the latents are the given picture's own at the end, and so are the
    decoded pixels; with `sampling.keep_unmasked` "latents" these alone, and with "none" a Fill
    model paints everything, as in the released pipeline.

    Args:
        generator: The loaded components.
        prompts: What to make pictures of.
        sampling: Steps, guidance, seed and shift.
        name: What the progress bar and errors say, such as `sample.prompts`.
        folder: Where the pictures that prompts name are.
        places: Whose noise each picture starts from; None: a prompt's index is its place.
        keep: Is given each picture with its place as soon as its batch is made.
        has_bar: Show how far it is.

    Raises:
        FileNotFoundError: A picture that a prompt names is not there.
        ValueError: A size is no multiple of the model's cells, the model sees no such pictures, or
            a picture to follow has another size or is missing.
    """
    check_sizes(prompts, generator.autoencoder.spatial_factor * generator.denoiser.patch, name)
    check_pictures(prompts, folder, name)
    following = follow(
        generator.controlnet,
        sampling.controlnet,
        prompts,
        folder,
        name,
        sees_condition=generator.sees_condition,
    )
    places = range(len(prompts)) if places is None else places
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        alike.setdefault((*_size(prompt), *kind_of(prompt)), []).append(index)
    pictures: dict[int, Picture] = {}
    with tqdm(total=len(prompts), desc=name, unit="picture", disable=not has_bar) as bar:
        for (width, height, *_), indices in alike.items():
            size = batch_size(width, height)
            for start in range(0, len(indices), size):
                chunk = indices[start : start + size]
                filled = chunk + [chunk[-1]] * (size - len(chunk))
                batch = [(places[i], prompts[i]) for i in filled]
                made = _batch(generator, batch, sampling, folder, following)
                for index, picture in zip(chunk, made, strict=False):
                    pictures[index] = picture
                    keep(places[index], picture)
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
                f"{factor}, the model's cells: use {nearest[0]}x{nearest[1]}"
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
    sampling: Sampling,
    folder: Path,
    following: Following,
) -> list[Picture]:
    width, height = _size(batch[0][1])
    factor = generator.autoencoder.spatial_factor
    shape = (generator.autoencoder.latent_channels, height // factor, width // factor)
    noise = torch.stack([starting_noise(sampling.seed, index, shape) for index, _ in batch])
    prompts = [prompt for _, prompt in batch]
    seen = encode(prompts, folder, generator.autoencoder, generator.device, sampling.time_offset)
    control = following.control(prompts, generator.denoiser, generator.autoencoder)
    conditions = generator.conditions([prompt.prompt for prompt in prompts], width, height)
    predict = generator.predictor(conditions, sampling.guidance, seen, control)
    if sampling.cfg_scale != 1:
        empty = generator.conditions([""], width, height)
        repeated = {name: row.expand(len(batch), *row.shape[1:]) for name, row in empty.items()}
        unconditional = generator.predictor(repeated, sampling.guidance, seen, control)
        predict = guided(predict, unconditional, sampling.cfg_scale)
    latents = generator.process.sample(
        predict,
        noise.to(generator.device),
        sampling.steps,
        num_tokens=generator.denoiser.num_tokens(shape[1], shape[2]),
        shift=sampling.shift,
        sampler=sampling.sampler,
    )
    if sampling.keep_unmasked != "none":
        latents = seen.restored(latents)
    pictures = to_pictures(generator.decode(latents))
    return pasted(pictures, prompts, folder) if sampling.keep_unmasked == "pixels" else pictures


def _size(prompt: Prompt) -> tuple[int, int]:
    return prompt.width, prompt.height
