"""From noise, text features and pictures to pictures, as diffusers' FLUX.1 pipelines do it."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch

from modelzoo.autoencoders import init_autoencoder, load_autoencoder, save_autoencoder
from modelzoo.checkpoints.folder import write_json
from modelzoo.denoiser import init_denoiser, load_denoiser, save_denoiser
from modelzoo.flux.components.conditions import fill_condition
from modelzoo.flux.v1 import presets
from modelzoo.flux.v1.latents import pack
from modelzoo.flux.v1.model import Flux1
from modelzoo.process.processes import process_of

MODEL = {
    "type": "flux",
    "transformer": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_layers": 2,
        "num_single_layers": 2,
        "in_channels": 16,
        "guidance_embeds": True,
        "axes_dims_rope": [4, 6, 6],
    },
    "vae": {
        "latent_channels": 4,
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "text_encoder": {"t5": {"hidden_size": 20}, "clip_l": {"hidden_size": 12}},
}
ABSENT = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
HEIGHT, WIDTH = 32, 48  # pixels, eight of them along a side of a token


def randomize(module: torch.nn.Module) -> None:
    """Give every parameter a value that matters: at initialisation many are zero or one."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def make_folder(variant: str, folder: Path) -> Path:
    """Write a toy of the variant in the diffusers layout, but for its text encoders."""
    sizes = {**MODEL["transformer"], "guidance_embeds": variant != "schnell"}
    model = {**MODEL, "variant": variant, "transformer": sizes}
    denoiser = init_denoiser(Flux1, presets.transformer_config(model), 1)
    randomize(denoiser.network)
    save_denoiser(denoiser, folder / "transformer")
    autoencoder = init_autoencoder(presets.autoencoder_config(model), 3)
    randomize(autoencoder)
    with torch.no_grad():  # draws from the posterior, as Fill's pipeline makes them, are its mean
        autoencoder.encoder.conv_out.weight[4:].zero_()
        autoencoder.encoder.conv_out.bias[4:].fill_(-30)
    save_autoencoder(autoencoder, folder / "vae")
    (folder / "scheduler").mkdir()
    write_json(presets.scheduler_config(model), folder / "scheduler/scheduler_config.json")
    write_json(presets.model_index(model), folder / "model_index.json")
    return folder


def pipeline(folder: Path) -> diffusers.DiffusionPipeline:
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        folder, **dict.fromkeys(ABSENT), local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


ROWS = {"context": draw(2, 9, 20, seed=3), "pooled": draw(2, 12, seed=4)}
NOISE = draw(2, 4, HEIGHT // 4, WIDTH // 4, seed=5)


def their_pictures(pipe: diffusers.DiffusionPipeline, **inputs: object) -> torch.Tensor:
    return pipe(
        height=HEIGHT,
        width=WIDTH,
        latents=pack(NOISE),
        prompt_embeds=ROWS["context"],
        pooled_prompt_embeds=ROWS["pooled"],
        output_type="pt",
        **inputs,
    ).images


@torch.inference_mode()
def our_pictures(
    folder: Path,
    steps: int,
    guidance: float | None = None,
    reference: torch.Tensor | None = None,
    fill: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Sample two pictures; pictures given are (2, 3, H, W) in [-1, 1], the mask (2, 1, H, W)."""
    denoiser = load_denoiser(Flux1, folder / "transformer")
    autoencoder = load_autoencoder(folder / "vae")
    conditioning = denoiser.conditioning(ROWS, guidance)
    if reference is not None:
        encoded = autoencoder.encode_rows(reference)["mean"]
        conditioning = conditioning._replace(references=(encoded,))
    if fill is not None:
        picture, mask = fill
        masked = autoencoder.encode_rows(picture * (1 - mask))["mean"]
        conditioning = conditioning._replace(fill=fill_condition(masked, mask))
    process = process_of(
        json.loads((folder / "scheduler/scheduler_config.json").read_text()), "flux"
    )
    num_tokens = denoiser.num_tokens(*NOISE.shape[-2:])

    def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return denoiser.predict(noisy, t, conditioning)

    latents = process.sample(predict, NOISE, steps, num_tokens)
    return (autoencoder.decode(latents) / 2 + 0.5).clamp(0, 1)


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return (ours - expected).abs().max().item()


def assert_same_pictures(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.05  # pictures, not constants
    assert difference(ours, expected) < 1e-3


def test_pictures_of_dev(tmp_path):
    folder = make_folder("dev", tmp_path)
    pipe = pipeline(folder)
    assert type(pipe) is diffusers.FluxPipeline
    expected = their_pictures(pipe, num_inference_steps=7, guidance_scale=2.5)
    ours = our_pictures(folder, 7, guidance=2.5)
    assert_same_pictures(ours, expected)
    assert (our_pictures(folder, 7) - ours).abs().max() > 1e-3  # at 3.5


def test_pictures_of_schnell(tmp_path):
    folder = make_folder("schnell", tmp_path)
    pipe = pipeline(folder)
    expected = their_pictures(pipe, num_inference_steps=4, guidance_scale=0.0)
    assert_same_pictures(our_pictures(folder, 4), expected)


def test_pictures_of_kontext(tmp_path):
    folder = make_folder("kontext", tmp_path)
    pipe = pipeline(folder)
    assert type(pipe) is diffusers.FluxKontextPipeline
    reference = draw(2, 3, 40, 16, seed=6).sigmoid()
    expected = their_pictures(
        pipe,
        image=reference,
        num_inference_steps=6,
        guidance_scale=3.5,
        max_area=HEIGHT * WIDTH,
        _auto_resize=False,
    )
    ours = our_pictures(folder, 6, reference=2 * reference - 1)
    assert_same_pictures(ours, expected)
    assert (our_pictures(folder, 6) - ours).abs().max() > 1e-3


def test_pictures_of_fill(tmp_path):
    folder = make_folder("fill", tmp_path)
    pipe = pipeline(folder)
    assert type(pipe) is diffusers.FluxFillPipeline
    picture = draw(2, 3, HEIGHT, WIDTH, seed=6).sigmoid()
    mask = (draw(2, 1, HEIGHT, WIDTH, seed=7) > 0).float()
    expected = their_pictures(
        pipe, image=picture, mask_image=mask, num_inference_steps=6, guidance_scale=30.0
    )
    ours = our_pictures(folder, 6, fill=(2 * picture - 1, mask))
    assert_same_pictures(ours, expected)
    other = our_pictures(folder, 6, fill=(2 * picture - 1, 1 - mask))
    assert (other - ours).abs().max() > 1e-3
