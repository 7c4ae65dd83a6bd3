"""Pictures of always the same noise while training: how the weights of a step draw.

No weight depends on this module, so training names it instead of importing it
(stages/train/grids.py): whoever edits a sampler or a sheet trains nothing anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modelzoo.autoencoders import Autoencoder, load_autoencoder
from modelzoo.denoiser import Denoiser
from modelzoo.process.processes import Process, process_of
from modelzoo.text_encoders import PromptTokenizer, load_text_encoders
from modelzoo.text_encoders.live import with_tokens
from modelzoo.text_encoders.text_encoder import TextEncoder
from stages.artifacts import read_json
from stages.control import follow
from stages.generation import Generator, Sampling, base_records, check_sizes, generate
from stages.params.outputs import Prompt, Sample
from stages.params.read import key, read
from stages.params.tracking import Samples
from stages.params.training import Training
from stages.prompt_pictures import check_pictures
from stages.sample_grid import sampling_of, write_grid
from stages.tokenizers import open_tokenizers

NAME = "sample.prompts"
Rows = Mapping[str, Tensor]  # of one prompt, such as context (L, D)


@dataclass(frozen=True)
class Params:
    """What is read of params.yaml."""

    name: str = key("experiment.name")
    family: str = key("model.type")
    dtype: str = key("model.dtype")
    training: Training = key("training")
    sample: Sample = key("sample")


class KnownRows(TextEncoder):
    """The rows of a few prompts, in place of the text encoders that made them."""

    def __init__(self, rows: Mapping[bytes, Rows]) -> None:
        """Take the prompts' rows by their `place`."""
        super().__init__()
        self.rows = rows

    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """See TextEncoder; of the known prompts alone."""
        found = [self.rows[place(*each)] for each in zip(ids, mask, strict=True)]
        return {name: torch.stack([row[name] for row in found]).to(ids.device) for name in found[0]}


class LearnedRows(TextEncoder):
    """Known rows, of which text encoders that learn compute their part anew."""

    def __init__(self, known: KnownRows, live: nn.Module) -> None:
        """Take the base's rows and a `LiveText`."""
        super().__init__()
        self.known, self.live = known, live

    def encode_rows(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """See TextEncoder; of the known prompts alone."""
        rows: dict[str, Tensor] = self.live(
            with_tokens(self.known.encode_rows(ids, mask), ids, mask)
        )
        return rows


@dataclass(frozen=True)
class TrainingGrids:
    """What is drawn, and what of the base is needed for it beside the denoiser.

    Between grids the autoencoder waits in CPU memory.
    """

    name: str
    prompts: list[Prompt]
    pictures: Path  # folder of what the prompts name
    sampling: Sampling
    tokenizer: PromptTokenizer
    rows: KnownRows
    autoencoder: Autoencoder
    process: Process
    sees_condition: bool  # whether the denoiser itself learns to follow pictures

    def check(self, denoiser: Denoiser, controlnet: nn.Module | None) -> None:
        """Refuse what could not be drawn.

        Raises:
            FileNotFoundError: A picture that a prompt names is not there.
            ValueError: A prompt asks for a size or a picture that the model cannot make.
        """
        check_sizes(self.prompts, self.autoencoder.spatial_factor * denoiser.patch, NAME)
        check_pictures(self.prompts, self.pictures, NAME)
        follow(
            controlnet,
            self.sampling.controlnet,
            self.prompts,
            self.pictures,
            NAME,
            sees_condition=self.sees_condition,
        )

    def draw(
        self,
        denoiser: Denoiser,
        controlnet: nn.Module | None,
        time_offset: float | None,
        step: int,
        path: Path | None,
        text: nn.Module | None = None,
    ) -> None:
        """Draw the grid of a step with the present weights; write it unless `path` is None.

        `text` is a `LiveText`, where text encoders learn.
        """
        device = next(denoiser.network.parameters()).device
        generator = Generator(
            denoiser=denoiser,
            controlnet=controlnet,
            sees_condition=self.sees_condition,
            autoencoder=self.autoencoder.to(device),
            text_encoder=self.rows if text is None else LearnedRows(self.rows, text),
            tokenizer=self.tokenizer,
            process=self.process,
            dtype=denoiser.dtype,
            device=device,
        )
        sampling = dataclasses.replace(self.sampling, time_offset=time_offset)
        pictures = generate(generator, self.prompts, sampling, NAME, self.pictures, has_bar=False)
        self.autoencoder.to("cpu")
        if path is not None:
            name = f"{self.name} after {step} training steps"
            write_grid(path, name, sampling, self.prompts, pictures, self.pictures)


def open_grids(
    settings: Samples, params_file: Path, base: Path, device: torch.device
) -> TrainingGrids:
    """Load what is needed and encode the prompts; the text encoders are gone when this returns.

    Args:
        settings: The section `tracking.samples`.
        params_file: params.yaml, whose section `sample` says what is drawn.
        base: The folder of the base's records.
        device: Where prompts are encoded.

    Raises:
        FileNotFoundError: Something of the base, or a picture that a prompt names, is not there.
        ValueError: params.yaml has no such section, or weights do not fit.
    """
    params = read(Params, params_file)
    asked = params.sample
    prompts, pictures = asked.prompts[: settings.prompts], Path(asked.pictures or "")
    check_pictures(prompts, pictures, NAME)
    records, dtype = base_records(base), getattr(torch, params.dtype)
    tokenizer = open_tokenizers(params.family, records["tokenizer"])
    scheduler = records["scheduler"].folders["scheduler"] / "scheduler_config.json"
    if settings.steps is not None:
        asked = dataclasses.replace(asked, steps=settings.steps)
    texts = dict.fromkeys(["", *(prompt.prompt for prompt in prompts)])
    text = load_text_encoders(
        params.family,
        records["text_encoder"].folders,
        tokenizer,
        dtype,
        records["text_encoder"].settings["zero_empty"],
    )
    return TrainingGrids(
        name=params.name,
        prompts=prompts,
        pictures=pictures,
        sampling=sampling_of(asked, None, params.training.controlnet),
        tokenizer=tokenizer,
        rows=known_rows(text.to(device), tokenizer, texts, device),
        autoencoder=load_autoencoder(records["vae"].folders["vae"], dtype),
        process=process_of(read_json(scheduler), params.family),
        sees_condition=params.training.is_control_lora,
    )


@torch.no_grad()
def known_rows(
    encoder: TextEncoder, tokenizer: PromptTokenizer, texts: Iterable[str], device: torch.device
) -> KnownRows:
    """Encode texts one by one, with an encoder that is on `device`."""
    rows = {}
    for text in texts:
        ids, mask = (torch.tensor([each]) for each in tokenizer.tokens(text))
        made = encoder.encode_rows(ids.to(device), mask.to(device))
        rows[place(ids[0], mask[0])] = {name: row[0].cpu() for name, row in made.items()}
    return KnownRows(rows)


def place(ids: Tensor, mask: Tensor) -> bytes:
    """Name a prompt by its tokens (L,)."""
    return torch.cat([ids, mask]).cpu().numpy().tobytes()
