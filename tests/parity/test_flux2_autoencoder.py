"""Our FLUX.2 autoencoder and that of diffusers are the same function of the same weights."""

from __future__ import annotations

from dataclasses import asdict

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelzoo.autoencoders import (
    AutoencoderKLFlux2,
    AutoencoderKLFlux2Config,
    load_autoencoder,
    save_autoencoder,
)
from modelzoo.autoencoders.flux2 import patchify, unpatchify
from modelzoo.checkpoints.folder import load_strict

SIZES = {
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 3,
    "norm_num_groups": 4,
}
CONFIGS = {
    "tiny": AutoencoderKLFlux2Config(**SIZES),
    "small decoder": AutoencoderKLFlux2Config(**SIZES, decoder_block_out_channels=(4, 8, 12)),
    "bare": AutoencoderKLFlux2Config(
        **SIZES, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False
    ),
}


def theirs(config: AutoencoderKLFlux2Config) -> torch.nn.Module:
    values = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    return diffusers.AutoencoderKLFlux2(**values).eval()


def both(config: AutoencoderKLFlux2Config):
    torch.manual_seed(0)
    oracle = theirs(config)
    oracle.bn.running_mean.normal_()
    oracle.bn.running_var.uniform_(0.2, 3)
    return load_strict(AutoencoderKLFlux2(config), oracle.state_dict(), "diffusers"), oracle


def pictures(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def pipeline_of(oracle):
    """The klein pipeline with nothing in it but the autoencoder: it owns the latent format."""
    pipe = object.__new__(diffusers.Flux2KleinPipeline)
    pipe.vae = oracle
    return pipe


def relative(ours: torch.Tensor, oracle: torch.Tensor) -> float:
    return ((ours - oracle).abs().max() / oracle.abs().max()).item()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_rows_are_the_latents_of_the_pipeline(config):
    ours, oracle = both(config)
    with torch.no_grad():
        expected = pipeline_of(oracle)._encode_vae_image(pictures(), generator=None)
    row = ours.encode_rows(pictures())["mean"]
    assert row.shape == (2, ours.latent_channels, 2, 3)
    assert ours.spatial_factor == 8
    assert relative(row, expected) < 1e-5


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_decoded_pictures_are_those_of_the_pipeline(config):
    ours, oracle = both(config)
    latents = torch.randn(2, 12, 2, 3)
    pipe = pipeline_of(oracle)
    std = (oracle.bn.running_var.view(1, -1, 1, 1) + config.batch_norm_eps).sqrt()
    raw = pipe._unpatchify_latents(latents * std + oracle.bn.running_mean.view(1, -1, 1, 1))
    with torch.no_grad():
        expected = oracle.decode(raw, return_dict=False)[0]
        assert relative(ours.decode(latents), expected) < 1e-5


def test_moments_and_gradients_of_training_equal_diffusers():
    ours, oracle = both(CONFIGS["tiny"])
    noise = torch.randn(2, 3, 4, 6)
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


def test_patches_are_ordered_as_in_diffusers():
    z = torch.randn(2, 3, 4, 6)
    expected = diffusers.Flux2KleinPipeline._patchify_latents(z)
    assert torch.equal(patchify(z), expected)
    assert torch.equal(unpatchify(expected), z)


@pytest.mark.parametrize(
    ("widths", "parameters"),
    [(None, 84_046_115), ((96, 192, 384, 384), 62_373_091)],
    ids=["FLUX.2", "FLUX.2-small-decoder"],
)
def test_the_released_sizes_have_the_names_and_shapes_of_diffusers(widths, parameters):
    config = AutoencoderKLFlux2Config(decoder_block_out_channels=widths)
    with torch.device("meta"):
        ours, oracle = AutoencoderKLFlux2(config), theirs(config)
    shapes = {name: (tuple(p.shape), p.dtype) for name, p in ours.state_dict().items()}
    assert shapes == {k: (tuple(p.shape), p.dtype) for k, p in oracle.state_dict().items()}
    assert len(shapes) == 251
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert sum(b.numel() for b in ours.buffers()) == 257
    assert (ours.latent_channels, ours.spatial_factor) == (128, 16)


def test_what_a_file_leaves_out_is_the_default_of_diffusers():
    with torch.device("meta"):
        oracle = diffusers.AutoencoderKLFlux2()
    values = asdict(AutoencoderKLFlux2Config())
    assert all(oracle.config[name] == value for name, value in values.items())


def test_bfloat16_strays_no_further_than_that_of_diffusers():
    ours, oracle = both(CONFIGS["tiny"])
    z = torch.randn(2, 3, 4, 6)
    with torch.no_grad():
        exact = oracle.decode(z).sample
        expected = oracle.bfloat16().decode(z.bfloat16()).sample
        result = ours.bfloat16().decode_raw(z.bfloat16())
    assert (result - exact).norm() <= (expected - exact).norm()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_folders_are_exchanged_both_ways(config, tmp_path):
    ours, oracle = both(config)
    oracle.save_pretrained(tmp_path / "theirs")
    save_autoencoder(load_autoencoder(tmp_path / "theirs"), tmp_path / "ours")
    again = diffusers.AutoencoderKLFlux2.from_pretrained(tmp_path / "ours", local_files_only=True)
    assert again.state_dict().keys() == oracle.state_dict().keys()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in oracle.state_dict().items())
    loaded = load_autoencoder(tmp_path / "ours")
    assert loaded.config == config
    assert torch.equal(loaded.encode_rows(pictures())["mean"], ours.encode_rows(pictures())["mean"])


def test_a_converted_file_without_the_batch_counter_loads(tmp_path):
    _, oracle = both(CONFIGS["tiny"])
    oracle.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["bn.num_batches_tracked"]
    save_file(state, file)
    assert load_autoencoder(tmp_path).encode_rows(pictures())["mean"].isfinite().all()
