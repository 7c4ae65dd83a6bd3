"""From noise and text features to pictures, as diffusers' SD3 pipeline does it."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch

from modelzoo.autoencoders import init_autoencoder, load_autoencoder, save_autoencoder
from modelzoo.checkpoints.folder import write_json
from modelzoo.denoiser import init_denoiser, load_denoiser, save_denoiser
from modelzoo.process.processes import process_of
from modelzoo.process.samplers import guided
from modelzoo.sd3 import presets
from modelzoo.sd3.model import SD3, SD3Conditioning

TOKENS = 9
MODEL = {
    "type": "sd3",
    "transformer": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_layers": 3,
        "in_channels": 16,
        "pos_embed_max_size": 12,
    },
    "vae": {
        "latent_channels": 4,
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "text_encoder": {
        "t5": {"hidden_size": 20},
        "clip_l": {"hidden_size": 6},
        "clip_g": {"hidden_size": 10},
    },
}
VARIANTS = {"large": [], "large-turbo": [], "medium": [0, 1]}
ABSENT = ("text_encoder", "text_encoder_2", "text_encoder_3")
ABSENT = (*ABSENT, "tokenizer", "tokenizer_2", "tokenizer_3", "image_encoder", "feature_extractor")


def randomize(module: torch.nn.Module) -> None:
    """Give every parameter a value that matters: at initialisation many are zero or one."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=VARIANTS)
def folder(request, tmp_path: Path) -> Path:
    dual = VARIANTS[request.param]
    transformer = {**MODEL["transformer"], "dual_attention_layers": dual}
    model = {**MODEL, "variant": request.param, "transformer": transformer}
    denoiser = init_denoiser(SD3, presets.transformer_config(model), 1)
    randomize(denoiser.network)
    save_denoiser(denoiser, tmp_path / "transformer")
    (tmp_path / "scheduler").mkdir()
    write_json(presets.scheduler_config(model), tmp_path / "scheduler/scheduler_config.json")
    autoencoder = init_autoencoder(presets.autoencoder_config(model), 3)
    randomize(autoencoder)
    save_autoencoder(autoencoder, tmp_path / "vae")
    write_json(presets.model_index(model), tmp_path / "model_index.json")
    return tmp_path


@pytest.fixture
def pipeline(folder: Path) -> diffusers.StableDiffusion3Pipeline:
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(
        folder, **dict.fromkeys(ABSENT), local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def features(seed: int) -> SD3Conditioning:
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(2, TOKENS, 20, generator=generator)
    return SD3Conditioning(context, torch.randn(2, 16, generator=generator))


def our_pictures(folder, noise, steps, prompt, negative, cfg_scale):
    denoiser = load_denoiser(SD3, folder / "transformer")
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    process = process_of(scheduler, "sd3")

    def predict(conditioning):
        return lambda noisy, t: denoiser.predict(noisy, t, conditioning)

    with torch.inference_mode():
        velocity = guided(predict(prompt), predict(negative), cfg_scale)
        num_tokens = denoiser.num_tokens(*noise.shape[-2:])
        latents = process.sample(velocity, noise, steps, num_tokens)
        pixels = load_autoencoder(folder / "vae").decode(latents)
    return (pixels / 2 + 0.5).clamp(0, 1)


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return (ours - expected).abs().max().item()


@pytest.mark.parametrize(("steps", "cfg_scale"), [(4, 1.0), (7, 4.5)])
def test_pictures_equal_those_of_the_pipeline(folder, pipeline, steps, cfg_scale):
    noise = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(7))
    prompt, negative = features(3), features(4)
    expected = pipeline(
        height=32,
        width=48,
        num_inference_steps=steps,
        guidance_scale=cfg_scale,
        latents=noise,
        prompt_embeds=prompt.context,
        pooled_prompt_embeds=prompt.pooled,
        negative_prompt_embeds=negative.context,
        negative_pooled_prompt_embeds=negative.pooled,
        output_type="pt",
    ).images
    ours = our_pictures(folder, noise, steps, prompt, negative, cfg_scale)
    assert expected.std() > 0.05  # a picture, not a constant
    assert difference(ours, expected) < 1e-3
    assert (ours - our_pictures(folder, noise, steps, negative, prompt, cfg_scale)).std() > 1e-3
