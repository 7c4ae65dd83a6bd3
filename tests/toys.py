"""Bases of a few thousand parameters, one of each family, as prepare_base leaves them."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.params import schema
from stages.params.model import Model
from stages.prepare_base import stage

CAPTIONS = ("handwritten digits one", "handwritten digits two three")
CLIP = {"hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
CLIP |= {"max_length": 12}
T5 = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "head_dim": 8}
T5 |= {"intermediate_size": 16, "max_length": 10}
QWEN3 = {"hidden_size": 16, "num_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
QWEN3 |= {"head_dim": 8, "intermediate_size": 16, "max_length": 32, "output_layers": [1, 2, 3]}
VAE = {"latent_channels": 4, "block_out_channels": [8, 8], "layers_per_block": 1}
VAE |= {"norm_num_groups": 4}  # 2 pixels a latent
TRANSFORMER = {"hidden_size": 16, "num_attention_heads": 2, "num_layers": 1, "in_channels": 16}
UNET = {"in_channels": 4, "model_channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1}
UNET |= {"attention_resolutions": [2], "transformer_depth": [1, 1], "num_head_channels": 8}
UNET |= {"context_dim": 32, "norm_num_groups": 4}

# the section `model` of params.yaml, as far as it is given
MODELS: dict[str, dict[str, Any]] = {
    "sdxl": {
        "unet": UNET,
        "text_encoder": {"clip_l": CLIP, "clip_g": CLIP},
        "scheduler": {"type": "ddpm", "prediction_type": "epsilon"},
    },
    "flux": {
        "variant": "dev",
        "transformer": {
            **TRANSFORMER,
            "num_single_layers": 1,
            "guidance_embeds": True,
            "axes_dims_rope": [4, 2, 2],
        },
        "text_encoder": {"t5": T5, "clip_l": CLIP},
    },
    "flux2": {
        "variant": "klein-base-4b",
        "transformer": {
            **TRANSFORMER,
            "num_single_layers": 1,
            "guidance_embeds": False,
            "axes_dims_rope": [2, 2, 2, 2],
        },
        "text_encoder": {"qwen3": QWEN3},
    },
    "sd3": {
        "variant": "medium",
        "transformer": {
            **TRANSFORMER,
            "num_layers": 2,
            "pos_embed_max_size": 8,
            "dual_attention_layers": [0],
        },
        "text_encoder": {"clip_l": CLIP, "clip_g": CLIP, "t5": T5},
    },
}


def section(family: str, dataset: Path, **changes: Any) -> Model:
    """Give the section `model` of a base made from scratch."""
    recipe = {"dataset": str(dataset), "vocab_size": 600, "vae_steps": 1, "vae_batch_size": 2}
    given = {"type": family, "vae": VAE, "from_scratch": recipe, **MODELS[family], **changes}
    return schema.build(Model, copy.deepcopy(given), "toys.py", "model")


def make_base(base: Path, family: str, **changes: Any) -> None:
    """Write `base`, with records of its components, as the stage does."""
    dataset = base.parent / "pictures_of_the_base"
    write_dataset(dataset)
    params = stage.Params(section(family, dataset, **changes), 0, 1, ".txt")
    stage.run(params, stage.Artifacts(base))
    shutil.rmtree(dataset)


def write_dataset(folder: Path) -> None:
    """Write a picture for each caption."""
    folder.mkdir(parents=True)
    for seed, caption in enumerate(CAPTIONS):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(caption)


def move_records(base: Path, old: Path) -> None:
    """Let the records of a copied base name the copy's folders."""
    for record in base.glob("*.json"):
        record.write_text(record.read_text().replace(str(old), str(base)))
