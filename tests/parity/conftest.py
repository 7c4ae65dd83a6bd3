"""A toy FLUX.2 klein written as a diffusers folder by our own code, for diffusers to read."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from modelzoo.autoencoders import init_autoencoder, save_autoencoder
from modelzoo.checkpoints.folder import write_json
from modelzoo.denoiser import init_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from modelzoo.text_encoders import make_text_parts

FLUX2 = FAMILIES["flux2"]
LENGTH = 24
LAYERS = (1, 2, 4)
MODEL = {
    "type": "flux2",
    "variant": "klein-4b",
    "dtype": "float32",
    "pretrained_path": None,
    "from_scratch": {"vocab_size": 300},
    "transformer": {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "num_layers": 2,
        "num_single_layers": 2,
        "in_channels": 16,
        "guidance_embeds": False,
        "qk_norm": True,
        "mlp_ratio": 3.0,
        "axes_dims_rope": [4, 4, 4, 4],
    },
    "vae": {
        "latent_channels": 4,
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "scaling_factor": None,
        "shift_factor": None,
    },
    "text_encoder": {
        "qwen3": {
            "hidden_size": 24,
            "num_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "intermediate_size": 32,
            "max_length": LENGTH,
            "output_layers": list(LAYERS),
        }
    },
}
WORDS = ["one", "two", "three", "four", "five"]
CAPTIONS = [f"handwritten digits {a} {b}" for a, b in product(WORDS, WORDS)]


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Give every parameter a value that matters: at initialisation many are zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    denoiser = init_denoiser(FLUX2.denoiser, FLUX2.network_config(MODEL), 1)
    randomize(denoiser.network, 2)
    save_denoiser(denoiser, folder / "transformer")

    autoencoder = init_autoencoder(FLUX2.autoencoder_config(MODEL), 3)
    randomize(autoencoder, 4)
    autoencoder.set_latent_statistics(torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16))
    save_autoencoder(autoencoder, folder / "vae")

    make_text_parts(MODEL, CAPTIONS, 5, folder)
    (folder / "scheduler").mkdir()
    write_json(FLUX2.scheduler_config(MODEL), folder / "scheduler" / "scheduler_config.json")
    write_json(FLUX2.model_index(MODEL), folder / "model_index.json")
    return folder


@pytest.fixture(scope="session")
def pipeline(toy_folder: Path):
    from diffusers import Flux2KleinPipeline

    pipe = Flux2KleinPipeline.from_pretrained(toy_folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe
