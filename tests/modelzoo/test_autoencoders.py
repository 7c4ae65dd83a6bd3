"""The FLUX.2 autoencoder: what rows are, and that nothing but statistics normalises them."""

from __future__ import annotations

import pytest
import torch

from modelzoo.autoencoders import AutoencoderConfig, init_autoencoder, load_autoencoder

CONFIG = {
    "_class_name": "AutoencoderKLFlux2",
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 2,
    "norm_num_groups": 2,
}


@pytest.fixture
def autoencoder():
    return init_autoencoder(CONFIG, 0)


@pytest.fixture
def pictures():
    return torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_measured_statistics_make_rows_unit_normal(autoencoder, pictures):
    patches = autoencoder.patchified_mean(pictures).detach()
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
    patches = autoencoder.patchified_mean(pictures)
    row = autoencoder.encode_rows(pictures)["mean"]
    torch.testing.assert_close(row, (patches - 0.1159) * 0.3611)


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
    from modelzoo.autoencoders import save_autoencoder

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
        AutoencoderConfig.from_dict({**CONFIG, **changes})


def test_the_released_configuration_is_understood():
    """Published with a key of diffusers' about float16, and without our choice of names."""
    config = AutoencoderConfig.from_dict(
        {"_class_name": "AutoencoderKLFlux2", "force_upcast": True, "_name_or_path": "x"}
    )
    assert config.latent_channels == 32
    assert "force_upcast" not in config.to_dict()


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="'AutoencoderKL'"):
        init_autoencoder({**CONFIG, "_class_name": "AutoencoderKL"}, 0)
