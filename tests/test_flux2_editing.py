"""Editing with FLUX as the specification calls it: references (Kontext) and what is filled."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from modelzoo.autoencoders import init_autoencoder
from modelzoo.autoencoders.config import AutoencoderKLConfig, AutoencoderKLFlux2Config
from modelzoo.denoiser import init_denoiser
from modelzoo.flux import v1, v2
from modelzoo.flux.components.positions import image_positions
from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.latents import pack
from modelzoo.flux.v1.model import Flux1, Flux1Conditioning
from modelzoo.flux.v2.conditioning import widen_for_fill
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2, Flux2Conditioning, cells
from modelzoo.flux.v2.positions import text_positions

CPU = torch.device("cpu")
HEIGHT, WIDTH = 32, 48  # pixels: 2 x 3 tokens
SMALL = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
KLEIN = Flux2Config(
    in_channels=8,
    num_layers=1,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=20,
    axes_dims_rope=(4, 4, 4, 4),
    guidance_embeds=False,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Tensor:
    return drawn(2, 3, height, width, seed=seed).clamp(-1, 1)


def left_half() -> Tensor:
    mask = torch.zeros(2, 1, HEIGHT, WIDTH)
    mask[..., : WIDTH // 3] = 1
    return mask


@pytest.fixture(scope="module")
def vae2():
    return init_autoencoder(AutoencoderKLFlux2Config(latent_channels=2, **SMALL).to_dict(), 1)


@pytest.fixture(scope="module")
def vae1():
    config = AutoencoderKLConfig(latent_channels=2, scaling_factor=0.5, shift_factor=0.1, **SMALL)
    return init_autoencoder(config.to_dict(), 1)


def awake(denoiser):
    """Nothing is zero any more, so that everything counts."""
    with torch.no_grad():
        for name, parameter in denoiser.network.named_parameters():
            parameter += 0.1 * drawn(*parameter.shape, seed=len(name))
    return denoiser


@pytest.mark.parametrize("package", [v1, v2])
def test_the_functions_are_called_as_the_specification_calls_them(package):
    kontext = inspect.signature(package.prepare_kontext_conditioning)
    expected = ["reference_images", "vae", "device", "dtype", "time_offset"]
    assert list(kontext.parameters) == expected
    fill = inspect.signature(package.prepare_fill_conditioning)
    assert list(fill.parameters) == ["reference_image", "mask", "vae", "device", "dtype"]


def test_a_reference_becomes_the_tokens_of_its_latents_at_the_offset_asked_for(vae2):
    tokens, ids = v2.prepare_kontext_conditioning(
        reference_images=picture(), vae=vae2, device=CPU, dtype=torch.float32, time_offset=1.0
    )
    assert torch.equal(tokens, cells(vae2.encode_rows(picture())["mean"]))
    assert ids.shape == (2, 6, 4)
    assert torch.equal(ids[0], image_positions(2, 3, CPU, t=1))
    assert torch.equal(ids[1], ids[0])


@pytest.mark.parametrize(("package", "step"), [(v1, 1), (v2, 10)])
def test_several_references_stand_as_far_apart_as_in_the_released_models(package, step, vae1, vae2):
    vae = vae1 if package is v1 else vae2
    references = [picture(), picture(64, 16, seed=1), picture(16, 16, seed=2)]
    tokens, ids = package.prepare_kontext_conditioning(references, vae, CPU, torch.bfloat16)
    assert tokens.shape == (2, 6 + 4 + 1, 8)
    assert tokens.dtype == torch.bfloat16
    assert ids[0, :, 0].tolist() == [step] * 6 + [2 * step] * 4 + [3 * step]
    assert ids[0, 6:10, 1].tolist() == [0, 1, 2, 3]  # rows of its own
    assert not ids[..., 3].any()


def test_an_offset_between_whole_numbers_is_kept(vae2):
    _, ids = v2.prepare_kontext_conditioning(picture(), vae2, CPU, torch.float32, time_offset=1.5)
    assert ids[0, 0].tolist() == [1.5, 0, 0, 0]
    assert ids[0, -1].tolist() == [1.5, 1, 2, 0]


def test_no_reference_is_an_error(vae2):
    with pytest.raises(ValueError, match="no reference image was given"):
        v2.prepare_kontext_conditioning([], vae2, CPU, torch.float32)


def test_flux2_with_prepared_references_predicts_what_the_denoiser_does(vae2):
    """The denoiser takes latents, the spec's call takes tokens; both must mean the same picture."""
    denoiser = awake(init_denoiser(Flux2, KLEIN, 0))
    noisy, t, context = drawn(2, 8, 2, 3), torch.tensor([0.2, 0.9]), drawn(2, 5, 20, seed=1)
    reference = picture(16, 32, seed=3)
    conditioning = Flux2Conditioning(context, None, (vae2.encode_rows(reference)["mean"],))
    expected = denoiser.predict(noisy, t, conditioning)
    sequence, ids = v2.prepare_kontext_conditioning(reference, vae2, CPU, torch.float32)
    tokens = denoiser.transformer(
        hidden_states=cells(noisy),
        encoder_hidden_states=context,
        timestep=t,
        img_ids=image_positions(2, 3, CPU),
        txt_ids=text_positions(5, CPU),
        img_cond_seq=sequence,
        img_cond_seq_ids=ids,
    )
    torch.testing.assert_close(tokens, cells(expected))
    without = denoiser.predict(noisy, t, Flux2Conditioning(context))
    assert (without - expected).abs().max() > 1e-3  # the reference counts


def test_what_is_painted_cannot_be_seen_and_what_is_kept_can(vae2):
    mask = left_half()
    given = picture()
    seen = v2.prepare_fill_conditioning(given, mask, vae2, CPU, torch.float32)
    assert seen.shape == (2, 6, 8 + 16 * 16)
    other = torch.where(mask.bool(), picture(seed=9), given)
    assert torch.equal(v2.prepare_fill_conditioning(other, mask, vae2, CPU, torch.float32), seen)
    kept = torch.where(mask.bool(), given, picture(seed=9))
    assert not torch.equal(v2.prepare_fill_conditioning(kept, mask, vae2, CPU, torch.float32), seen)
    assert torch.equal(seen[..., :8], cells(vae2.encode_rows(given * (1 - mask))["mean"]))


def test_each_token_carries_the_mask_of_its_own_pixels_row_by_row(vae2):
    mask = (drawn(2, 1, HEIGHT, WIDTH, seed=4) > 0).float()
    tokens = v2.prepare_fill_conditioning(picture(), mask, vae2, CPU, torch.float32)[..., 8:]
    for token, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
        window = mask[:, 0, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        assert torch.equal(tokens[:, token], window.reshape(2, 256))


def test_flux1_fill_has_the_released_channels(vae1):
    """320 beside the noise with 16 latent channels; here 2 give 4 * (2 + 64)."""
    mask = left_half()
    seen = v1.prepare_fill_conditioning(picture(), mask, vae1, CPU, torch.float32)
    assert seen.shape == (2, 6, 4 * (2 + 64))
    planes = mask.reshape(2, HEIGHT // 8, 8, WIDTH // 8, 8).permute(0, 2, 4, 1, 3)
    assert torch.equal(seen[..., 8:], pack(planes.reshape(2, 64, HEIGHT // 8, WIDTH // 8)))
    config = Flux1Config(
        in_channels=8 + 264,
        out_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=20,
        pooled_projection_dim=12,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=False,
    )
    denoiser = awake(init_denoiser(Flux1, config, 0))
    assert config.fill_channels == seen.shape[-1]
    noisy, context, pooled = drawn(2, 2, 4, 6), drawn(2, 5, 20, seed=1), drawn(2, 12, seed=2)
    masked = vae1.encode_rows(picture() * (1 - mask))["mean"]
    planes = planes.reshape(2, 64, HEIGHT // 8, WIDTH // 8)
    conditioning = Flux1Conditioning(context, pooled, fill=torch.cat([masked, planes], 1))
    expected = denoiser.predict(noisy, torch.full((2,), 0.5), conditioning)
    tokens = denoiser.transformer(
        hidden_states=pack(noisy),
        encoder_hidden_states=context,
        pooled_projections=pooled,
        timestep=torch.full((2,), 0.5),
        img_ids=image_positions(2, 3, CPU),
        txt_ids=torch.zeros(5, 4),
        img_cond=seen,
    )
    torch.testing.assert_close(tokens, pack(expected))


def test_a_flux2_widened_for_fill_predicts_exactly_what_its_base_does(vae2):
    base = awake(init_denoiser(Flux2, KLEIN, 0))
    weights = {name: value.clone() for name, value in base.network.state_dict().items()}
    fill = widen_for_fill(base, vae2.spatial_factor)
    assert fill.config.fill_channels == 8 + 256
    assert fill.config.out_channels == 8
    noisy, t, context = drawn(2, 8, 2, 3), torch.tensor([0.2, 0.9]), drawn(2, 5, 20, seed=1)
    latents = vae2.encode_rows(picture() * (1 - left_half()))["mean"]
    planes = drawn(2, 256, 2, 3, seed=6)
    seen = Flux2Conditioning(context, fill=torch.cat([latents, planes], 1))
    expected = base.predict(noisy, t, Flux2Conditioning(context))
    assert torch.equal(fill.predict(noisy, t, seen), expected)
    assert all(torch.equal(base.network.state_dict()[k], v) for k, v in weights.items())


def test_the_new_columns_learn(vae2):
    fill = widen_for_fill(awake(init_denoiser(Flux2, KLEIN, 0)), vae2.spatial_factor)
    condition = drawn(2, 264, 2, 3, seed=6)
    seen = Flux2Conditioning(drawn(2, 5, 20, seed=1), fill=condition)
    fill.predict(drawn(2, 8, 2, 3), torch.tensor([0.2, 0.9]), seen).square().sum().backward()
    gradient = fill.network.get_submodule("x_embedder").weight.grad
    assert gradient[:, 8:].abs().max() > 0


def test_a_fill_model_is_not_widened_twice(vae2):
    fill = widen_for_fill(init_denoiser(Flux2, KLEIN, 0), vae2.spatial_factor)
    with pytest.raises(ValueError, match="already takes 264 channels"):
        widen_for_fill(fill, vae2.spatial_factor)


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (torch.zeros(2, 1, WIDTH, HEIGHT), r"a mask of \[2, 1, 48, 32\]"),
        (torch.zeros(2, 3, HEIGHT, WIDTH), r"a mask of \[2, 3, 32, 48\]"),
        (torch.full((2, 1, HEIGHT, WIDTH), 0.5), "threshold it"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(mask, problem, vae2):
    with pytest.raises(ValueError, match=problem):
        v2.prepare_fill_conditioning(picture(), mask, vae2, CPU, torch.float32)
