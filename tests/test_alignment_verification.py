"""The specification's Alignment Notes, one test a row.

Where the released weights differ from a note, the test holds the released number and its name or
docstring says what the specification has; docs/models.md lists all such places.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from modelzoo.autoencoders import Autoencoder, init_autoencoder
from modelzoo.create import create_model
from modelzoo.denoiser import Denoiser
from modelzoo.families import family
from modelzoo.flux.components.conditions import fill_condition
from modelzoo.flux.components.positions import image_positions, joint_rope, reference_positions
from modelzoo.flux.v1 import latents as flux1
from modelzoo.flux.v1.config import ROPE_THETA, Flux1Config
from modelzoo.flux.v2 import positions as flux2
from modelzoo.layers.rope import rope_table
from modelzoo.text_encoders import TEXT_PARTS
from stages.params.compose import load_config

MODELS = Path(__file__).parents[1] / "params" / "models"
CPU = torch.device("cpu")
FLUX1 = ("flux1_dev", "flux1_schnell", "flux1_kontext", "flux1_fill")
KLEIN = ("flux2_klein_4b", "flux2_klein_9b")
SD35 = ("sd35_large", "sd35_large_turbo", "sd35_medium")


@cache
def model_of(preset: str) -> dict[str, Any]:
    return OmegaConf.to_container(load_config(MODELS / f"{preset}.yaml").model)


def network(model: dict[str, Any]) -> nn.Module:
    """The denoising network, on the meta device."""
    kind = family(model["type"])
    with torch.device("meta"):
        return kind.denoiser.NETWORK(kind.network_config(model))


def small_autoencoder(preset: str) -> Autoencoder:
    """An autoencoder with the preset's normalisation at toy size."""
    model = model_of(preset)
    sizes = {"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4}
    vae = {**model["vae"], **sizes}
    config = family(model["type"]).autoencoder_config({**model, "vae": vae})
    return init_autoencoder(config, seed=0).eval()


def pictures() -> Tensor:
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


class TestVaeEncodingOrder:
    @pytest.mark.parametrize("preset", ["flux1_dev", "sd35_medium"])
    def test_latents_are_z_minus_shift_times_scale(self, preset):
        autoencoder = small_autoencoder(preset)
        scale, shift = autoencoder.config.scaling_factor, autoencoder.config.shift_factor
        z, _ = autoencoder.encode_moments(pictures())
        latents = autoencoder.encode_rows(pictures())["mean"]
        assert torch.equal(latents, (z - shift) * scale)
        assert not torch.allclose(latents, z * scale - shift, atol=1e-3)

    @pytest.mark.parametrize("preset", ["sdxl", "flux1_dev", "sd35_medium"])
    def test_decoding_undoes_it(self, preset):
        autoencoder = small_autoencoder(preset)
        z, _ = autoencoder.encode_moments(pictures())
        with torch.no_grad():
            decoded = autoencoder.decode(autoencoder.encode_rows(pictures())["mean"])
            torch.testing.assert_close(decoded, autoencoder.decode_raw(z))

    def test_a_scale_and_shift_given_to_flux2_are_in_that_order_too(self):
        autoencoder = small_autoencoder("flux2_dev")
        patches = autoencoder.raw_latents(pictures())
        autoencoder.set_scalar_normalisation(0.3611, 0.1159)
        latents = autoencoder.encode_rows(pictures())["mean"]
        torch.testing.assert_close(latents, (patches - 0.1159) * 0.3611)


class TestVaeScalingFactors:
    @pytest.mark.parametrize(
        ("preset", "scale", "shift"),
        [("sdxl", 0.13025, None), *((name, 0.3611, 0.1159) for name in FLUX1)],
    )
    def test_scale_and_shift_are_as_noted(self, preset, scale, shift):
        config = small_autoencoder(preset).config
        assert (config.scaling_factor, config.shift_factor) == (scale, shift)

    @pytest.mark.parametrize("preset", SD35)
    def test_sd35_has_the_scale_that_is_noted_and_a_shift_that_is_not(self, preset):
        """Noted: no shift. Released: 0.0609."""
        config = small_autoencoder(preset).config
        assert (config.scaling_factor, config.shift_factor) == (1.5305, 0.0609)

    @pytest.mark.parametrize("preset", ["flux2_dev", *KLEIN])
    def test_flux2_has_statistics_of_128_channels_instead(self, preset):
        """Noted: 0.3611 and 0.1159. Released: a mean and a variance for each channel."""
        autoencoder = small_autoencoder(preset)
        assert not hasattr(autoencoder.config, "scaling_factor")
        mean = torch.linspace(-1, 1, 128)
        var = torch.linspace(0.5, 2, 128)
        autoencoder.set_latent_statistics(mean, var)
        expected = autoencoder.raw_latents(pictures()) - mean[:, None, None]
        expected = expected / (var + 1e-4).sqrt()[:, None, None]
        assert torch.equal(autoencoder.encode_rows(pictures())["mean"], expected)


class TestTransformerBlockCounts:
    @pytest.mark.parametrize(
        ("preset", "joint", "single"),
        [
            *((name, 19, 38) for name in FLUX1),
            ("flux2_dev", 8, 48),
            ("flux2_klein_4b", 5, 20),
        ],
    )
    def test_joint_and_single_blocks_are_as_noted(self, preset, joint, single):
        assert blocks(network(model_of(preset))) == (joint, single)

    def test_klein_9b_has_two_joint_blocks_more_than_noted(self):
        """Noted: 6. Released: 8."""
        assert blocks(network(model_of("flux2_klein_9b"))) == (8, 24)

    def test_klein_9b_builds_with_the_six_that_are_noted(self):
        model = model_of("flux2_klein_9b")
        six = {**model, "transformer": {**model["transformer"], "num_layers": 6}}
        assert blocks(network(six)) == (6, 24)


def blocks(transformer: nn.Module) -> tuple[int, int]:
    return len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)


class TestTextEncoderConfigurations:
    @pytest.mark.parametrize(
        ("preset", "encoders"),
        [
            ("sdxl", {"clip_l", "clip_g"}),
            *((name, {"t5", "clip_l"}) for name in FLUX1),
            ("flux2_dev", {"mistral3"}),
            *((name, {"qwen3"}) for name in KLEIN),
            *((name, {"t5", "clip_l", "clip_g"}) for name in SD35),
        ],
    )
    def test_the_encoders_are_as_noted(self, preset, encoders):
        model = model_of(preset)
        given = {kind for kind, sizes in model["text_encoder"].items() if sizes}
        assert given == encoders
        assert all(given & set(part.kinds) for part in TEXT_PARTS[model["type"]])

    @pytest.mark.parametrize(
        ("preset", "width"),
        [*((name, 768) for name in FLUX1), *((name, 2048) for name in SD35)],
    )
    def test_the_pooled_text_is_as_wide_as_noted(self, preset, width):
        embedder = network(model_of(preset)).time_text_embed.text_embedder
        assert embedder.linear_1.in_features == width

    @pytest.mark.parametrize("preset", ["flux2_dev", *KLEIN])
    def test_flux2_takes_no_pooled_text(self, preset):
        """Noted: 4096. Released: there is none, time and guidance alone modulate."""
        transformer = network(model_of(preset))
        names = [name.split(".")[-1] for name, _ in transformer.named_modules()]
        assert "text_embedder" not in names
        assert "pooled_projections" not in type(transformer).forward.__annotations__

    @pytest.mark.parametrize(
        ("preset", "width"),
        [
            ("sdxl", 768 + 1280),
            ("flux1_dev", 4096),
            ("flux2_dev", 3 * 5120),
            ("flux2_klein_4b", 3 * 2560),
            ("flux2_klein_9b", 3 * 4096),
            ("sd35_large", 4096),
        ],
    )
    def test_a_context_token_is_as_wide_as_the_encoders_make_it(self, preset, width):
        model = model_of(preset)
        config = family(model["type"]).network_config(model)
        widths = {"cross_attention_dim", "joint_attention_dim"}
        assert [value for key, value in config.to_dict().items() if key in widths] == [width]


class TestPositionIds:
    """[t, h, w, l]."""

    def test_a_target_counts_rows_and_columns_at_t_0(self):
        ids = image_positions(3, 4, CPU).view(3, 4, 4)
        for row in range(3):
            for column in range(4):
                assert ids[row, column].tolist() == [0, row, column, 0]

    def test_a_reference_of_flux1_counts_anew_at_t_1(self):
        ids = reference_positions(((2, 3),), flux1.REFERENCE_STEP, CPU)
        assert torch.equal(ids, image_positions(2, 3, CPU, t=1))

    def test_references_of_flux2_are_at_t_10_and_20(self):
        """Noted: 1.0 and more. Released: ten apart."""
        ids = reference_positions(((1, 2), (1, 1)), flux2.REFERENCE_STEP, CPU)
        assert ids.tolist() == [[10, 0, 0, 0], [10, 0, 1, 0], [20, 0, 0, 0]]

    def test_text_of_flux1_stands_at_the_origin_and_text_of_flux2_counts_along_l(self):
        assert flux1.text_positions(3, CPU).tolist() == [[0, 0, 0, 0]] * 3
        assert flux2.text_positions(3, CPU).tolist() == [[0, 0, 0, i] for i in range(3)]

    def test_flux1_gives_the_released_result_of_three_columns_to_the_bit(self):
        """Its released positions have no l, so the axis l owns none of a head's numbers."""
        config = Flux1Config()
        assert config.rope_axes == (16, 56, 56, 0)
        ids = image_positions(60, 80, CPU, t=1)
        three = rope_table(ids[:, :3], config.axes_dims_rope, ROPE_THETA)
        assert torch.equal(rope_table(ids, config.rope_axes, ROPE_THETA), three)
        counted = ids + torch.tensor([0, 0, 0, 1]) * torch.arange(60 * 80)[:, None]
        assert torch.equal(rope_table(counted, config.rope_axes, ROPE_THETA), three)

    @pytest.mark.parametrize("preset", ["flux1_tiny", "flux2_tiny"])
    def test_ids_may_have_the_shape_b_seq_4(self, preset):
        """And a sample's ids are its own: those of one sample do not reach another."""
        denoiser = awake(preset)
        inputs = tokens_of(denoiser, batch=2)
        shared = denoiser.network(**inputs)
        own = inputs["img_ids"].repeat(2, 1, 1)
        assert_same(denoiser.network(**{**inputs, "img_ids": own}), shared)
        rows_apart = own * torch.tensor([[[1, 1, 1, 1]], [[1, 5, 1, 1]]])
        moved = denoiser.network(**{**inputs, "img_ids": rows_apart})
        assert_same(moved[0], shared[0])
        assert not torch.allclose(moved[1], shared[1], atol=1e-4)

    @pytest.mark.parametrize("preset", ["flux1_tiny", "flux2_tiny"])
    def test_a_reference_is_told_from_the_target_by_t_alone(self, preset):
        denoiser = awake(preset)
        inputs = tokens_of(denoiser, batch=1)
        inputs["img_cond_seq"] = torch.randn(1, 6, denoiser.config.in_channels)
        at = {t: {"img_cond_seq_ids": image_positions(2, 3, CPU, t=t)} for t in (0, 1)}
        result, moved = (denoiser.network(**inputs, **ids) for ids in at.values())
        assert result.shape == inputs["hidden_states"].shape  # cut off the reference
        assert not torch.allclose(result, moved, atol=1e-5)

    def test_ids_of_three_columns_are_refused(self):
        with pytest.raises(ValueError, match="last axis must be 4"):
            joint_rope((torch.zeros(5, 3),), (16, 56, 56, 0), ROPE_THETA)


class TestFillMode:
    """Noted: FLUX.2 only. Released: FLUX.1 Fill, and no FLUX.2 whose weights do it."""

    def test_flux1_fill_takes_the_masked_latents_and_the_mask_on_its_channels(self):
        transformer = network(model_of("flux1_fill"))
        assert transformer.x_embedder.in_features == 64 + 64 + 256
        assert transformer.proj_out.out_features == 64
        condition = fill_condition(torch.zeros(1, 16, 4, 6), torch.ones(1, 1, 32, 48))
        assert flux1.pack(condition).shape == (1, 6, 64 + 256)

    def test_flux2_takes_them_on_a_wider_x_embedder(self):
        kind = family("flux2")
        config = kind.denoiser.CONFIG(in_channels=128 + 128 + 256, out_channels=128)
        assert config.fill_channels == 128 + 256
        with torch.device("meta"):
            assert kind.denoiser.NETWORK(config).proj_out.out_features == 128


def awake(preset: str) -> Denoiser:
    """A toy denoiser whose weights are all random, so that its prediction is not zero."""
    denoiser = create_model(model_of(preset))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            if parameter.ndim > 1:  # norms keep their ones
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
    denoiser.network.requires_grad_(False)
    return denoiser


def tokens_of(denoiser: Denoiser, batch: int) -> dict[str, Tensor]:
    """What a FLUX network takes for a picture of 2 x 3 tokens."""
    generator = torch.Generator().manual_seed(2)
    config = denoiser.config
    inputs = {
        "hidden_states": torch.randn(batch, 6, config.in_channels, generator=generator),
        "encoder_hidden_states": torch.randn(
            batch, 5, config.joint_attention_dim, generator=generator
        ),
        "timestep": torch.rand(batch, generator=generator),
        "img_ids": image_positions(2, 3, CPU),
        "txt_ids": torch.zeros(5, 4, dtype=torch.int64),
    }
    if hasattr(config, "pooled_projection_dim"):
        inputs["pooled_projections"] = torch.randn(
            batch, config.pooled_projection_dim, generator=generator
        )
    return inputs


def assert_same(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5 * second.abs().max().item())
