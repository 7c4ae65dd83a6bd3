"""The whole way from prompts and pictures to pictures is that of diffusers' FLUX.2 pipelines."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch

from modelzoo.autoencoders import init_autoencoder, load_autoencoder, save_autoencoder
from modelzoo.checkpoints.folder import write_json
from modelzoo.denoiser import init_denoiser, load_denoiser, save_denoiser
from modelzoo.flux.v2 import presets
from modelzoo.flux.v2.model import Flux2
from modelzoo.process.flow_matching import empirical_mu
from modelzoo.process.samplers import empirical_sigmas, euler, guided
from modelzoo.text_encoders import load_text_encoders, load_tokenizers

LENGTH, LAYERS = 24, (1, 2, 4)
PROMPTS = ["handwritten digits three four", "handwritten digits one"]
NOISE = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(7))
DEV = {
    "type": "flux2",
    "variant": "dev",
    "transformer": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_layers": 2,
        "num_single_layers": 2,
        "in_channels": 16,
        "guidance_embeds": True,
        "axes_dims_rope": [4, 4, 4, 4],
    },
    "vae": {
        "latent_channels": 4,
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "text_encoder": {"mistral3": {"hidden_size": 8}},
}


def randomize(module: torch.nn.Module) -> None:
    """Give every parameter a value that matters: at initialisation many are zero or one."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="module")
def dev_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy of dev in the diffusers layout, but for its text encoder."""
    folder = tmp_path_factory.mktemp("dev")
    denoiser = init_denoiser(Flux2, presets.transformer_config(DEV), 1)
    randomize(denoiser.network)
    save_denoiser(denoiser, folder / "transformer")
    autoencoder = init_autoencoder(presets.autoencoder_config(DEV), 3)
    randomize(autoencoder)
    autoencoder.set_latent_statistics(torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16))
    save_autoencoder(autoencoder, folder / "vae")
    (folder / "scheduler").mkdir()
    write_json(presets.scheduler_config(DEV), folder / "scheduler/scheduler_config.json")
    write_json(presets.model_index(DEV), folder / "model_index.json")
    return folder


def encode(folder: Path, prompts: list[str]) -> torch.Tensor:
    folders = {name: folder / name for name in ("tokenizer", "text_encoder")}
    tokenizer = load_tokenizers("flux2", folders)
    encoder = load_text_encoders("flux2", folders, tokenizer, torch.float32)
    ids, mask = (torch.tensor(flat) for flat in zip(*map(tokenizer.tokens, prompts), strict=True))
    return encoder.encode_rows(ids, mask)["context"]


@torch.inference_mode()
def our_pictures(folder, steps, context, empty=None, cfg_scale=1.0, guidance=None, references=()):
    """Sample two pictures; `references` are PIL pictures that both look at."""
    denoiser = load_denoiser(Flux2, folder / "transformer")
    autoencoder = load_autoencoder(folder / "vae")
    encoded = tuple(
        autoencoder.encode_rows(pixels(picture))["mean"].expand(2, -1, -1, -1)
        for picture in references
    )

    def predict(context):
        conditioning = denoiser.conditioning({"context": context}, guidance)
        conditioning = conditioning._replace(references=encoded)
        return lambda noisy, t: denoiser.predict(noisy, t, conditioning)

    velocity = predict(context)
    if empty is not None:
        velocity = guided(velocity, predict(empty), cfg_scale)
    latents = euler(velocity, NOISE, empirical_sigmas(steps, NOISE.shape[-2] * NOISE.shape[-1]))
    return (autoencoder.decode(latents) / 2 + 0.5).clamp(0, 1)


def two_pictures() -> list[PIL.Image.Image]:
    """Pictures of different shapes; the pipelines refuse sides below 64 pixels."""
    random = np.random.default_rng(0)
    sizes = ((64, 72, 3), (80, 64, 3))
    return [PIL.Image.fromarray(random.integers(0, 256, size, np.uint8)) for size in sizes]


def pixels(picture: PIL.Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return (ours - expected).abs().max().item()


def assert_same_pictures(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.05  # pictures, not constants
    assert difference(ours, expected) < 1e-3


@pytest.mark.parametrize(
    ("steps", "cfg_scale", "references"), [(4, 1.0, []), (7, 3.0, []), (3, 3.0, two_pictures())]
)
def test_pictures_equal_those_of_the_klein_pipeline(
    toy_folder, pipeline, steps, cfg_scale, references
):
    pipeline.register_to_config(is_distilled=cfg_scale == 1)  # otherwise it is a base model
    expected = pipeline(
        image=references or None,
        prompt=PROMPTS,
        height=32,
        width=48,
        num_inference_steps=steps,
        guidance_scale=cfg_scale,
        latents=NOISE,
        output_type="pt",
        max_sequence_length=LENGTH,
        text_encoder_out_layers=LAYERS,
    ).images
    texts = encode(toy_folder, PROMPTS), encode(toy_folder, ["", ""]), cfg_scale
    ours = our_pictures(toy_folder, steps, *texts, references=references)
    assert_same_pictures(ours, expected)
    if references:
        assert (our_pictures(toy_folder, steps, *texts) - ours).abs().max() > 1e-3


@pytest.mark.parametrize("references", [[], two_pictures()], ids=["plain", "references"])
def test_pictures_equal_those_of_the_dev_pipeline(dev_folder, references):
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        dev_folder, text_encoder=None, tokenizer=None, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe) is diffusers.Flux2Pipeline
    context = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(8))
    expected = pipe(
        image=references or None,
        prompt_embeds=context,
        height=32,
        width=48,
        num_inference_steps=6,
        guidance_scale=2.5,
        latents=NOISE,
        output_type="pt",
    ).images
    ours = our_pictures(dev_folder, 6, context, guidance=2.5, references=references)
    assert_same_pictures(ours, expected)
    other = our_pictures(dev_folder, 6, context, references=references)  # at its default, 4
    assert (other - ours).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [1, 4, 28, 50, 200])
@pytest.mark.parametrize("tokens", [16, 256, 4096, 4300, 4301, 8192])
def test_the_shift_is_that_of_the_pipeline(tokens, steps):
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    assert empirical_mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps))


def test_times_are_those_of_the_scheduler(toy_folder):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(toy_folder / "scheduler")
    even = torch.linspace(1, 1 / 12, 12).tolist()
    scheduler.set_timesteps(sigmas=even, mu=empirical_mu(1024, 12))
    torch.testing.assert_close(empirical_sigmas(12, 1024), scheduler.sigmas, rtol=0, atol=1e-6)
