"""Make a small base model in the layout that real ones have, from a dataset of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelzoo import families
from modelzoo.autoencoders import init_autoencoder, save_autoencoder
from modelzoo.checkpoints.folder import write_json
from modelzoo.text_encoders import init_text_encoder, train_tokenizer
from stages.dataset_folder import Entry, list_dataset
from stages.prepare_base.autoencoder import Schedule, fit_autoencoder, read_pictures

NAME = "model.from_scratch.dataset"


def make_base(model: Mapping[str, Any], caption_extension: str, seed: int, folder: Path) -> None:
    """Write tokenizer, text encoder, VAE, transformer and scheduler to `folder`.

    The tokenizer and the VAE are trained on the dataset; the text encoder (random features) and
    the transformer (what training starts from) are initialised from the seed.
    """
    recipe, family = model["from_scratch"], families.family(model["type"])
    entries = usable(Path(recipe["dataset"]), caption_extension)
    sizes = model["text_encoder"]["qwen3"]
    train_tokenizer(
        [entry.caption or "" for entry in entries],
        recipe["vocab_size"],
        sizes["max_length"],
        folder / "tokenizer",
    )
    init_text_encoder(family.text_encoder_config(model), seed, folder / "text_encoder")
    denoiser = family.init_denoiser(family.transformer_config(model), seed)
    family.save_denoiser(denoiser, folder / "transformer")
    make_autoencoder(model, entries, seed, folder / "vae")
    (folder / "scheduler").mkdir()
    write_json(family.scheduler_config(model), folder / "scheduler" / "scheduler_config.json")
    write_json(family.model_index(model), folder / "model_index.json")


def usable(root: Path, caption_extension: str) -> list[Entry]:
    """List the pictures of the dataset; here each must be there and have a caption."""
    entries = list(list_dataset(root, caption_extension, NAME).entries)
    for entry in entries:
        if entry.problem or entry.caption is None:
            raise ValueError(
                f"{NAME}: {str(root / entry.path)!r} cannot be used: "
                f"{entry.problem or 'it has no caption'}; mend or remove it"
            )
    return entries


def make_autoencoder(
    model: Mapping[str, Any], entries: list[Entry], seed: int, folder: Path
) -> None:
    """Train a VAE on the pictures, measure what its latents are normalised by, and write it."""
    recipe = model["from_scratch"]
    autoencoder = init_autoencoder(families.family(model["type"]).autoencoder_config(model), seed)
    root = Path(recipe["dataset"])
    pictures = read_pictures([root / e.path for e in entries], autoencoder.spatial_factor)
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
