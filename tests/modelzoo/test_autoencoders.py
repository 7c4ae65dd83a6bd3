"""The autoencoders: what rows are, and that nothing but statistics or scalars normalises them."""

from __future__ import annotations

import pytest
import torch

from modelzoo.autoencoders import (
    AutoencoderKLConfig,
    AutoencoderKLFlux2Config,
    init_autoencoder,
    load_autoencoder,
    save_autoencoder,
)

CONFIG = {
    "_class_name": "AutoencoderKLFlux2",
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 2,
    "norm_num_groups": 2,
}

SCALED = {**CONFIG, "_class_name": "AutoencoderKL", "scaling_factor": 0.5, "shift_factor": 0.1}


@pytest.fixture
def autoencoder():
    return init_autoencoder(CONFIG, 0)


@pytest.fixture
def scaled():
    return init_autoencoder(SCALED, 0)


@pytest.fixture
def pictures():
    return torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_measured_statistics_make_rows_unit_normal(autoencoder, pictures):
    patches = autoencoder.raw_latents(pictures).detach()
    assert patches.shape == (3, 8, 2, 3)
    autoencoder.set_latent_statistics(patches.mean((0, 2, 3)), patches.var((0, 2, 3)))
    row = autoencoder.encode_rows(pictures)["mean"]
    torch.testing.assert_close(row.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    expected = (patches.var((0, 2, 3)) / (patches.var((0, 2, 3)) + 1e-4)).sqrt()
    torch.testing.assert_close(row.std((0, 2, 3)), expected)


def test_decoding_undoes_the_normalisation(autoencoder, pictures):
    autoencoder.set_latent_statistics(torch.linspace(-1, 1, 8), torch.linspace(0.1, 2, 8))
    rows = autoencoder.encode_rows(pictures)
    expected = autoencoder.decode_raw(autoencoder.encode_moments(pictures)[0])
    torch.testing.assert_close(autoencoder.decode(autoencoder.latents(rows)), expected)


def test_a_scalar_scale_is_written_as_statistics(autoencoder, pictures):
    autoencoder.set_scalar_normalisation(0.3611, 0.1159)
    patches = autoencoder.raw_latents(pictures)
    row = autoencoder.encode_rows(pictures)["mean"]
    torch.testing.assert_close(row, (patches - 0.1159) * 0.3611)


def channel_statistics(raw):
    cells = raw.detach().transpose(0, 1).flatten(1)
    return cells.mean(1), cells.var(1)


def test_a_scaled_autoencoder_takes_one_scale_of_all_channels(scaled, pictures):
    raw = scaled.raw_latents(pictures)
    scaled.set_latent_statistics(*channel_statistics(raw))
    assert scaled.config.scaling_factor == pytest.approx(1 / raw.std().item(), rel=1e-2)
    assert scaled.config.shift_factor == pytest.approx(raw.mean().item(), rel=1e-4)
    row = scaled.encode_rows(pictures)["mean"]
    assert row.mean().item() == pytest.approx(0, abs=1e-5)
    assert row.std().item() == pytest.approx(1, rel=1e-2)
    assert scaled.config.to_dict()["scaling_factor"] == scaled.config.scaling_factor


def test_a_family_without_shift_is_given_none(pictures):
    """SDXL's pipelines would ignore it, and decode shifted latents to other pictures."""
    sdxl = init_autoencoder({**SCALED, "shift_factor": None}, 0)
    raw = sdxl.raw_latents(pictures)
    sdxl.set_latent_statistics(*channel_statistics(raw))
    assert sdxl.config.shift_factor is None
    torch.testing.assert_close(
        sdxl.encode_rows(pictures)["mean"], raw.detach() * sdxl.config.scaling_factor
    )


def test_a_draw_follows_the_noise_in_the_space_of_the_rows(scaled, pictures):
    """Training needs the row alone: neither scale nor shift of the autoencoder."""
    rows = scaled.encode_rows(pictures)
    mean, logvar = (x.detach() for x in scaled.encode_moments(pictures))
    noise = torch.randn(mean.shape)
    expected = (mean + (logvar / 2).exp() * noise - 0.1) * 0.5
    torch.testing.assert_close(scaled.latents(rows, noise), expected)
    assert scaled.latents(rows) is rows["mean"]
    torch.testing.assert_close(
        scaled.decode(scaled.latents(rows)), scaled.decode_raw(mean), atol=1e-5, rtol=1e-5
    )


def test_training_leaves_the_statistics_alone(autoencoder, pictures):
    autoencoder.train()
    before = {k: v.clone() for k, v in autoencoder.bn.state_dict().items()}
    autoencoder(pictures, torch.zeros(3, 2, 4, 6)).pixels.sum().backward()
    autoencoder.encode_rows(pictures)
    assert all(torch.equal(v, before[k]) for k, v in autoencoder.bn.state_dict().items())


def test_a_reconstruction_follows_the_noise(autoencoder, pictures):
    mean, logvar = autoencoder.encode_moments(pictures)
    noise = torch.randn(mean.shape)
    result = autoencoder(pictures, noise)
    torch.testing.assert_close(
        result.pixels, autoencoder.decode_raw(mean + noise * (logvar / 2).exp())
    )
    assert result.pixels.shape == pictures.shape


def test_rows_are_facts_that_carry_no_gradient(autoencoder, pictures):
    row = autoencoder.encode_rows(pictures)["mean"]
    assert not row.requires_grad
    assert autoencoder.latents({"mean": row}, torch.randn_like(row)) is row


def test_the_seed_decides_and_the_global_generator_is_untouched(autoencoder):
    state = torch.get_rng_state()
    again, other = init_autoencoder(CONFIG, 0), init_autoencoder(CONFIG, 1)
    assert torch.equal(torch.get_rng_state(), state)
    name = "encoder.conv_in.weight"
    assert torch.equal(again.state_dict()[name], autoencoder.state_dict()[name])
    assert not torch.equal(other.state_dict()[name], autoencoder.state_dict()[name])


def test_a_loaded_autoencoder_is_frozen(autoencoder, tmp_path):
    save_autoencoder(autoencoder, tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.config == autoencoder.config


def test_pictures_that_do_not_divide_are_refused(autoencoder):
    with pytest.raises(ValueError, match="10x8 pixels do not divide into cells of 4x4"):
        autoencoder.encode_rows(torch.zeros(1, 3, 8, 10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "relu"}, "act_fn 'relu'"),
        ({"norm_num_groups": 3}, "4 channels do not divide into norm_num_groups 3"),
        ({"down_block_types": ["AttnDownBlock2D"] * 2}, "down_block_types"),
        ({"scaling_factor": 0.36}, r"unknown keys \['scaling_factor'\]"),
    ],
)
def test_what_it_does_not_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderKLFlux2Config.from_dict({**CONFIG, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling_factor": 0.0}, r"AutoencoderKL: scaling_factor 0\.0 must be above 0"),
        ({"latents_mean": [0.1, 0.2]}, r"latents_mean \(0\.1, 0\.2\) is not supported"),
        ({"patch_size": [2, 2]}, r"unknown keys \['patch_size'\]"),
    ],
)
def test_what_a_scaled_one_does_not_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderKLConfig.from_dict({**SCALED, **changes})


def test_the_published_configuration_of_sdxl_is_understood():
    """Old files lack keys that came later, and hold keys that say nothing of the architecture."""
    config = AutoencoderKLConfig.from_dict(
        {
            "_class_name": "AutoencoderKL",
            "_diffusers_version": "0.20.0.dev0",
            "_name_or_path": "../sdxl-vae/",
            "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "force_upcast": True,
            "in_channels": 3,
            "latent_channels": 4,
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "out_channels": 3,
            "sample_size": 1024,
            "scaling_factor": 0.13025,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        }
    )
    assert (config.use_quant_conv, config.use_post_quant_conv) == (True, True)
    assert (config.scaling_factor, config.shift_factor) == (0.13025, None)


def test_the_released_configuration_is_understood():
    """Published with a key of diffusers' about float16, and without our choice of names."""
    config = AutoencoderKLFlux2Config.from_dict(
        {"_class_name": "AutoencoderKLFlux2", "force_upcast": True, "_name_or_path": "x"}
    )
    assert config.latent_channels == 32
    assert "force_upcast" not in config.to_dict()


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="'AutoencoderTiny'; known autoencoders are"):
        init_autoencoder({**CONFIG, "_class_name": "AutoencoderTiny"}, 0)
