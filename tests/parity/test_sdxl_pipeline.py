"""From noise, text features and sizes to pictures, as diffusers' SDXL pipeline does it."""

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
from modelzoo.sdxl import presets
from modelzoo.sdxl.model import SDXL, SDXLConditioning

MODEL = {
    "type": "sdxl",
    "unet": {
        "model_channels": 8,
        "transformer_depth": [1, 1, 2],
        "num_head_channels": 8,
        "norm_num_groups": 4,
        "context_dim": 16,
    },
    "vae": {
        "latent_channels": 4,
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "scaling_factor": 0.13025,
    },
    "text_encoder": {"clip_l": {"hidden_size": 6}, "clip_g": {"hidden_size": 10}},
    "scheduler": {"type": "ddpm", "prediction_type": "epsilon"},
}
ABSENT = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
ABSENT = (*ABSENT, "image_encoder", "feature_extractor")
SIZES = {"original_size": (100, 60), "crops_coords_top_left": (3, 7), "target_size": (40, 56)}


def randomize(module: torch.nn.Module) -> None:
    """Give every parameter a value that matters: at initialisation many are zero or one."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=["epsilon", "v_prediction"])
def folder(request, tmp_path: Path) -> Path:
    model = {**MODEL, "scheduler": {"type": "ddpm", "prediction_type": request.param}}
    denoiser = init_denoiser(SDXL, presets.unet_config(model), 1)
    randomize(denoiser.network)
    save_denoiser(denoiser, tmp_path / "unet")
    (tmp_path / "scheduler").mkdir()
    write_json(presets.scheduler_config(model), tmp_path / "scheduler/scheduler_config.json")
    autoencoder = init_autoencoder(presets.autoencoder_config(model), 3)
    randomize(autoencoder)
    save_autoencoder(autoencoder, tmp_path / "vae")
    write_json(presets.model_index(model), tmp_path / "model_index.json")
    return tmp_path


@pytest.fixture
def pipeline(folder: Path) -> diffusers.StableDiffusionXLPipeline:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folder, **dict.fromkeys(ABSENT), local_files_only=True, add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def features(seed: int) -> SDXLConditioning:
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(2, 7, 16, generator=generator)
    sizes = torch.tensor([value for pair in SIZES.values() for value in pair])
    return SDXLConditioning(context, torch.randn(2, 10, generator=generator), sizes.expand(2, 6))


def our_pictures(folder, noise, steps, prompt, negative, cfg_scale):
    denoiser = load_denoiser(SDXL, folder / "unet")
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    process = process_of(scheduler, "sdxl")

    def predict(features):
        conditioning = denoiser.conditioning(features._asdict())
        return lambda noisy, t: denoiser.predict(noisy, t, conditioning)

    with torch.inference_mode():
        prediction = guided(predict(prompt), predict(negative), cfg_scale)
        num_tokens = denoiser.num_tokens(*noise.shape[-2:])
        latents = process.sample(prediction, noise, steps, num_tokens)
        pixels = load_autoencoder(folder / "vae").decode(latents)
    return (pixels / 2 + 0.5).clamp(0, 1)


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return (ours - expected).abs().max().item()


@pytest.mark.parametrize(
    ("steps", "cfg_scale", "zeros"), [(4, 1.0, False), (6, 5.0, False), (6, 5.0, True)]
)
def test_pictures_equal_those_of_the_pipeline(folder, pipeline, steps, cfg_scale, zeros):
    """Without a negative prompt SDXL is steered away from zeros, as model_index.json says."""
    noise = torch.randn(2, 4, 10, 14, generator=torch.Generator().manual_seed(7))
    prompt, negative = features(3), features(4)
    given = {
        "negative_prompt_embeds": negative.context,
        "negative_pooled_prompt_embeds": negative.pooled,
    }
    if zeros:
        given = {}
        negative = prompt._replace(
            context=torch.zeros_like(prompt.context), pooled=torch.zeros_like(prompt.pooled)
        )
    expected = pipeline(
        height=40,
        width=56,
        num_inference_steps=steps,
        guidance_scale=cfg_scale,
        latents=noise,
        prompt_embeds=prompt.context,
        pooled_prompt_embeds=prompt.pooled,
        output_type="pt",
        **given,
        **SIZES,
    ).images
    ours = our_pictures(folder, noise, steps, prompt, negative, cfg_scale)
    assert expected.std() > 0.05  # a picture, not a constant
    assert difference(ours, expected) < 1e-3
    moved = prompt._replace(sizes=prompt.sizes.flip(1))
    assert (ours - our_pictures(folder, noise, steps, moved, negative, cfg_scale)).std() > 1e-4
