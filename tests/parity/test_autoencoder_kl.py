"""Our AutoencoderKL and that of diffusers are the same function of the same weights."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from modelzoo.autoencoders import (
    AutoencoderKL,
    AutoencoderKLConfig,
    load_autoencoder,
    save_autoencoder,
)
from modelzoo.checkpoints.folder import load_strict

SIZES = {
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
BARE = {"use_quant_conv": False, "use_post_quant_conv": False}
FLUX1 = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159, **BARE}
CONFIGS = {
    "sdxl": AutoencoderKLConfig(**SIZES, scaling_factor=0.13025),
    "flux1": AutoencoderKLConfig(**SIZES, **FLUX1),
    "sd35": AutoencoderKLConfig(
        **SIZES, **{**FLUX1, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    ),
    "no attention": AutoencoderKLConfig(**SIZES, mid_block_add_attention=False),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def both(config: AutoencoderKLConfig):
    torch.manual_seed(0)
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    oracle = diffusers.AutoencoderKL(**values).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():  # norms and biases, too, get values that matter
            parameter += 0.1 * torch.randn_like(parameter)
    return load_strict(AutoencoderKL(config), oracle.state_dict(), "diffusers"), oracle


def pictures(height: int = 16, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(3, 3, height, width, generator=generator) * 2 - 1


def scaled(z: torch.Tensor, config: AutoencoderKLConfig) -> torch.Tensor:
    """The latent format as the three pipelines spell it."""
    return (z - (config.shift_factor or 0)) * config.scaling_factor


def relative(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    return ((ours - oracle).abs().max() / oracle.abs().max()).item()


@every_config
@pytest.mark.parametrize("size", [(16, 24), (12, 4), (20, 28), (4, 36)])
def test_rows_are_the_scaled_posterior_of_diffusers(config, size):
    ours, oracle = both(config)
    with torch.no_grad():
        posterior = oracle.encode(pictures(*size)).latent_dist
    rows = ours.encode_rows(pictures(*size))
    noise = torch.randn(posterior.mean.shape)
    assert rows["mean"].shape == (3, config.latent_channels, size[0] // 4, size[1] // 4)
    assert relative(rows["mean"], scaled(posterior.mode(), config)) < 1e-5
    drawn = scaled(posterior.mean + posterior.std * noise, config)
    assert relative(ours.latents(rows, noise), drawn) < 1e-5
    assert ours.latents(rows) is rows["mean"]


@every_config
def test_decoded_pictures_are_those_of_diffusers(config):
    ours, oracle = both(config)
    latents = torch.randn(2, config.latent_channels, 5, 7)
    with torch.no_grad():
        z = latents / config.scaling_factor + (config.shift_factor or 0)
        assert relative(ours.decode(latents), oracle.decode(z).sample) < 1e-5


@every_config
def test_moments_and_gradients_of_training_equal_diffusers(config):
    ours, oracle = both(config)
    noise = torch.randn(ours.posterior_shape(pictures()))
    result = ours(pictures(), noise)
    posterior = oracle.encode(pictures()).latent_dist
    assert relative(result.mean, posterior.mean) < 1e-5
    assert relative(result.logvar, posterior.logvar) < 1e-5
    expected = oracle.decode(posterior.mean + posterior.std * noise).sample
    assert relative(result.pixels, expected) < 1e-5
    (result.pixels - pictures()).square().sum().backward()
    (expected - pictures()).square().sum().backward()
    grads = {name: p.grad for name, p in oracle.named_parameters()}
    for name, parameter in ours.named_parameters():
        if name.endswith("to_k.bias"):  # cancels in the softmax: a gradient of rounding errors
            continue
        assert relative(parameter.grad, grads[name]) < 1e-4, name


@every_config
def test_bfloat16_strays_no_further_than_that_of_diffusers(config):
    ours, oracle = both(config)
    latents = torch.randn(2, config.latent_channels, 4, 6)
    scale, shift = config.scaling_factor, config.shift_factor or 0
    with torch.no_grad():
        exact = oracle.decode(latents / scale + shift).sample
        theirs = oracle.bfloat16().decode(latents.bfloat16() / scale + shift).sample
        result = ours.bfloat16().decode(latents.bfloat16())
    assert result.dtype == torch.bfloat16
    assert (result - exact).norm() <= (theirs - exact).norm()


def test_pixels_are_counted_as_the_pipelines_count_them():
    """[-1, 1] in and out; a cell is what diffusers' image processor rounds sizes to."""
    ours, oracle = both(CONFIGS["flux1"])
    processor = VaeImageProcessor(vae_scale_factor=2 ** (len(oracle.config.block_out_channels) - 1))
    assert processor.config.vae_scale_factor == ours.spatial_factor
    image = processor.numpy_to_pil(torch.rand(1, 8, 8, 3).numpy())
    pixels = processor.preprocess(image)
    assert -1 <= pixels.min() < 0 < pixels.max() <= 1
    with torch.no_grad():
        expected = scaled(oracle.encode(pixels).latent_dist.mode(), ours.config)
    assert relative(ours.encode_rows(pixels)["mean"], expected) < 1e-5


@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [
        (AutoencoderKLConfig(scaling_factor=0.13025), 248, 83_653_863),
        (AutoencoderKLConfig(**FLUX1), 244, 83_819_683),
    ],
    ids=["sdxl", "flux1 and sd35"],
)
def test_the_released_sizes_have_the_names_and_shapes_of_diffusers(config, tensors, parameters):
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    with torch.device("meta"):
        ours, oracle = AutoencoderKL(config), diffusers.AutoencoderKL(**values)
    found = {name: (tuple(p.shape), p.dtype) for name, p in ours.state_dict().items()}
    assert found == {k: (tuple(p.shape), p.dtype) for k, p in oracle.state_dict().items()}
    assert len(found) == tensors
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert (ours.latent_channels, ours.spatial_factor) == (config.latent_channels, 8)


@every_config
def test_folders_are_exchanged_both_ways(config, tmp_path):
    _, oracle = both(config)
    oracle.save_pretrained(tmp_path / "theirs")
    save_autoencoder(load_autoencoder(tmp_path / "theirs"), tmp_path / "ours")
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path / "ours", local_files_only=True)
    assert again.state_dict().keys() == oracle.state_dict().keys()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in oracle.state_dict().items())
    assert again.config.scaling_factor == config.scaling_factor
    assert again.config.shift_factor == config.shift_factor
    assert load_autoencoder(tmp_path / "ours").config == config
