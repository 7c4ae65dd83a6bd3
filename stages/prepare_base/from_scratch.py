"""Make a small base model in the layout that real ones have, from a dataset of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelzoo import families
from modelzoo.autoencoders import init_autoencoder, save_autoencoder
from modelzoo.checkpoints.folder import write_json
from modelzoo.denoiser import init_denoiser, save_denoiser
from modelzoo.text_encoders import make_text_parts
from stages.dataset.form import Entry, Form
from stages.dataset.listing import list_dataset
from stages.prepare_base.autoencoder import Schedule, fit_autoencoder, read_pictures

NAME = "model.from_scratch.dataset"


def make_base(model: Mapping[str, Any], caption_extension: str, seed: int, folder: Path) -> None:
    """Write tokenizers, text encoders, VAE, denoiser and scheduler to `folder`.

    The tokenizers and the VAE are trained on the dataset; the text encoders (random features) and
    the denoiser (what training starts from) are initialised from the seed.
    """
    recipe, family = model["from_scratch"], families.family(model["type"])
    entries = usable(Path(recipe["dataset"]), caption_extension)
    make_text_parts(model, [text for entry in entries for text in entry.captions], seed, folder)
    denoiser = init_denoiser(family.denoiser, family.network_config(model), seed)
    save_denoiser(denoiser, folder / family.folder)
    make_autoencoder(model, entries, seed, folder / "vae")
    (folder / "scheduler").mkdir()
    write_json(family.scheduler_config(model), folder / "scheduler" / "scheduler_config.json")
    write_json(family.model_index(model), folder / "model_index.json")


def usable(root: Path, caption_extension: str) -> list[Entry]:
    """List the pictures of the dataset; here each must be there and have a caption."""
    entries = list(list_dataset(root, Form(caption_extension=caption_extension), NAME).entries)
    for entry in entries:
        missing = "" if entry.captions else "it has no caption"
        if problem := entry.problem or entry.caption_problem or missing:
            raise ValueError(
                f"{NAME}: {str(root / entry.path)!r} cannot be used: {problem}; mend or remove it"
            )
    return entries


def make_autoencoder(
    model: Mapping[str, Any], entries: list[Entry], seed: int, folder: Path
) -> None:
    """Train a VAE on the pictures, measure what its latents are normalised by, and write it."""
    recipe = model["from_scratch"]
    autoencoder = init_autoencoder(families.family(model["type"]).autoencoder_config(model), seed)
    root = Path(recipe["dataset"])
    pictures = read_pictures(root, [entry.path for entry in entries], autoencoder.spatial_factor)
    schedule = Schedule(
        steps=recipe["vae_steps"],
        batch_size=recipe["vae_batch_size"],
        learning_rate=recipe["vae_learning_rate"],
        seed=seed,
    )
    fit_autoencoder(autoencoder, pictures, schedule)
    if (scale := model["vae"]["scaling_factor"]) is not None:
        autoencoder.set_scalar_normalisation(scale, model["vae"]["shift_factor"] or 0.0)
    save_autoencoder(autoencoder, folder)
