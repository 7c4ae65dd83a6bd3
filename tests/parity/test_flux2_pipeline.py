"""The whole way from prompt to picture gives the picture of diffusers' klein pipeline."""

from __future__ import annotations

import diffusers
import pytest
import torch

from modelzoo.autoencoders import load_autoencoder
from modelzoo.families import FAMILIES
from modelzoo.process.flow_matching import empirical_mu
from modelzoo.process.samplers import empirical_sigmas, euler, guided
from modelzoo.text_encoders import load_text_encoder, load_tokenizer

LENGTH, LAYERS = 24, (1, 2, 4)
PROMPTS = ["handwritten digits three four", "handwritten digits one"]


def our_pictures(folder, noise, steps, cfg_scale):
    tokenizer = load_tokenizer(folder / "tokenizer")
    encoder = load_text_encoder(folder / "text_encoder", tokenizer, torch.float32)
    autoencoder = load_autoencoder(folder / "vae")
    denoiser = FAMILIES["flux2"].load_denoiser(folder / "transformer", torch.float32)

    def predict(prompts):
        encoded = [tokenizer.ids(prompt) for prompt in prompts]
        ids, mask = torch.tensor([e.ids for e in encoded]), torch.tensor([e.mask for e in encoded])
        conditioning = denoiser.conditioning(encoder.encode_rows(ids, mask))
        return lambda noisy, t: denoiser.predict(noisy, t, conditioning)

    with torch.inference_mode():
        velocity = guided(predict(PROMPTS), predict([""] * len(PROMPTS)), cfg_scale)
        sigmas = empirical_sigmas(steps, noise.shape[-2] * noise.shape[-1])
        pixels = autoencoder.decode(euler(velocity, noise, sigmas))
    return (pixels / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(("steps", "cfg_scale"), [(4, 1.0), (7, 3.0)])
def test_pictures_equal_those_of_the_klein_pipeline(toy_folder, pipeline, steps, cfg_scale):
    noise = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(7))
    expected = pipeline(
        prompt=PROMPTS,
        height=32,
        width=48,
        num_inference_steps=steps,
        guidance_scale=cfg_scale,
        latents=noise,
        output_type="pt",
        max_sequence_length=LENGTH,
        text_encoder_out_layers=LAYERS,
    ).images
    ours = our_pictures(toy_folder, noise, steps, cfg_scale)
    assert expected.std() > 0.05  # a picture, not a constant
    assert (ours - expected).abs().max() < 1e-3


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
