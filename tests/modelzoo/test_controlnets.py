"""ControlNets and Control-LoRA's widened input: what is refused, and what must hold at first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from modelzoo.checkpoints.folder import save_component
from modelzoo.controlnet import load_controlnet, residuals_of
from modelzoo.denoiser import init_denoiser, load_denoiser, save_denoiser
from modelzoo.flux.v1 import conditioning as v1
from modelzoo.flux.v1 import controlnet as flux1
from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.model import Flux1, Flux1Conditioning
from modelzoo.flux.v2 import conditioning as v2
from modelzoo.flux.v2 import controlnet as flux2
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2, Flux2Conditioning
from modelzoo.layers.control import most_used_up, spread
from modelzoo.sd3 import controlnet as sd3
from modelzoo.sd3.config import SD3Config
from modelzoo.sd3.model import SD3
from modelzoo.sdxl import controlnet as sdxl
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.model import SDXL

FLUX1 = Flux1Config(
    in_channels=8,
    num_layers=5,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=20,
    pooled_projection_dim=12,
    axes_dims_rope=(4, 6, 6),
)
FLUX2 = Flux2Config(
    in_channels=8,
    num_layers=5,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=20,
    axes_dims_rope=(4, 4, 4, 4),
    guidance_embeds=False,
)
SD35 = SD3Config(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    num_layers=5,
    attention_head_dim=12,
    num_attention_heads=2,
    joint_attention_dim=20,
    caption_projection_dim=24,
    pooled_projection_dim=10,
    pos_embed_max_size=12,
    qk_norm="rms_norm",
)
UNET = UNetConfig(
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=(1, 2),
    transformer_layers_per_block=(1, 1),
    norm_num_groups=4,
    cross_attention_dim=20,
    addition_time_embed_dim=6,
    projection_class_embeddings_input_dim=36 + 10,
)
MODULES = {Flux1: flux1, Flux2: flux2, SD3: sd3}


def base(kind: Any, config: Any) -> Any:
    """Make a denoiser whose every weight matters."""
    denoiser = init_denoiser(kind, config, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return denoiser


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 5, 8, 19, 20, 24, 38, 48])
def test_the_usual_number_of_copies_leaves_none_without_a_block(num_blocks):
    number = most_used_up(num_blocks, 4)
    residuals = [torch.full((1, 2, 3), float(i)) for i in range(number)]
    served = [each[0, 0, 0].item() for each in spread(residuals, num_blocks, 2, "residuals")]
    assert served == sorted(served)
    assert set(served) == set(range(number))


def test_no_residuals_are_nothing_to_add():
    assert spread(None, 3, 2, "residuals") == spread([], 3, 2, "residuals") == [None] * 3


@pytest.mark.parametrize(("kind", "config"), [(Flux1, FLUX1), (Flux2, FLUX2)])
def test_the_usual_flux_controlnet_copies_what_serves_a_block(kind, config):
    net = MODULES[kind].controlnet_from(base(kind, config))
    assert (net.config.num_layers, net.config.num_single_layers) == (3, 2)  # 4 of 5 would not do


@pytest.mark.parametrize(
    ("kind", "config", "numbers", "message"),
    [
        (
            Flux1,
            FLUX1,
            (4, 2),
            "of num_layers 4 blocks not every one .* the base's 5: .* such as 3",
        ),
        (Flux1, FLUX1, (6, 2), "of num_layers 6 blocks"),
        (Flux1, FLUX1, (-1, 2), "of num_layers -1 blocks"),
        (Flux1, FLUX1, (0, 0), "no block is to be copied"),
        (Flux1, replace(FLUX1, in_channels=12, out_channels=8), (1, 1), "4 further channels"),
        (Flux2, FLUX2, (3, 3), "of num_single_layers 3 blocks"),
        (Flux2, FLUX2, (3, 0), "num_single_layers 0 must be at least 1"),
        (SD3, SD35, (3,), "of num_layers 3 blocks .* from 1 to 2"),
        (SD3, SD35, (0,), "of num_layers 0 blocks"),
    ],
)
def test_a_copy_that_would_serve_no_block_is_refused(kind, config, numbers, message):
    with pytest.raises(ValueError, match=message):
        MODULES[kind].controlnet_from(base(kind, config), *numbers)


def test_a_base_that_is_wrapped_is_refused():
    denoiser = base(Flux1, FLUX1)
    block = denoiser.network.transformer_blocks[0]
    block.attn.to_q = torch.nn.Sequential(block.attn.to_q)
    with pytest.raises(ValueError, match=r"'transformer_blocks.0.attn.to_q.weight' of shape"):
        flux1.controlnet_from(denoiser)


def inputs(denoiser: Flux1, height: int = 2, width: int = 3) -> dict[str, torch.Tensor]:
    size = height * width
    return {
        "hidden_states": drawn(2, size, 8),
        "encoder_hidden_states": drawn(2, 7, 20, seed=1),
        "pooled_projections": drawn(2, 12, seed=2),
        "timestep": torch.tensor([0.2, 0.9]),
        "img_ids": torch.zeros(size, 4),
        "txt_ids": torch.zeros(7, 4),
    }


def test_residuals_of_another_picture_or_network_are_refused():
    denoiser = base(Flux1, FLUX1)
    given = inputs(denoiser)
    with pytest.raises(ValueError, match=r"residuals of \[5\] tokens .* a picture of 6"):
        denoiser.network(**given, controlnet_block_samples=[drawn(2, 5, 32)])
    with pytest.raises(ValueError, match="3 residuals were given to 2 blocks"):
        denoiser.network(**given, controlnet_single_block_samples=[drawn(2, 6, 32)] * 3)


def test_a_unet_refuses_residuals_of_other_levels():
    denoiser = base(SDXL, UNET)
    with pytest.raises(ValueError, match="1 residuals were given for 6 results"):
        denoiser.network(
            drawn(2, 4, 4, 4),
            drawn(2, 7, 20),
            drawn(2, 10),
            torch.tensor([0.0, 9.0]),
            torch.ones(2, 6),
            down_block_additional_residuals=[torch.zeros(1)],
        )


def test_control_reaches_the_target_and_not_the_references():
    """Positions of references follow the target's; a residual is of the target's tokens alone."""
    denoiser = base(Flux1, replace(FLUX1, num_layers=1))
    given = {
        **inputs(denoiser),
        "img_cond_seq": drawn(2, 4, 8, seed=5),
        "img_cond_seq_ids": torch.ones(4, 4),
    }
    seen = []
    first = denoiser.network.single_transformer_blocks[0]
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    denoiser.network(**given)
    denoiser.network(**given, controlnet_block_samples=[torch.ones(2, 6, 32)])
    change = seen[1] - seen[0]
    torch.testing.assert_close(change[:, 7:13], torch.ones(2, 6, 32))
    assert not change[:, :7].any()
    assert not change[:, 13:].any()


def test_a_seed_gives_one_controlnet_of_sdxl():
    denoiser = base(SDXL, UNET)
    first, same, other = (sdxl.controlnet_from(denoiser, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(same[name], value) for name, value in first.items())
    name = "controlnet_cond_embedding.conv_in.weight"
    assert not torch.equal(first[name], other[name])


def test_the_dtype_of_a_controlnet_is_its_bases():
    denoiser = base(SDXL, UNET)
    denoiser.network.bfloat16()
    assert {p.dtype for p in sdxl.controlnet_from(denoiser, 1).parameters()} == {torch.bfloat16}


def test_a_folder_of_another_class_is_refused(tmp_path):
    save_denoiser(base(Flux1, FLUX1), tmp_path)
    with pytest.raises(ValueError, match="'FluxControlNetModel' is needed"):
        load_controlnet(flux1.FluxControlNetModel, tmp_path)


@pytest.mark.parametrize(
    ("kind", "config", "grow", "changes", "message"),
    [
        (Flux1, FLUX1, flux1.controlnet_from, {"num_mode": 3}, "num_mode 3 is not supported"),
        (
            Flux1,
            FLUX1,
            flux1.controlnet_from,
            {"conditioning_embedding_channels": 16},
            "give a ControlNet of one mode whose condition is latents",
        ),
        (SD3, SD35, sd3.controlnet_from, {"use_pos_embed": False}, "use_pos_embed False"),
        (SD3, SD35, sd3.controlnet_from, {"joint_attention_dim": None}, "does not see the text"),
        (
            SDXL,
            UNET,
            lambda denoiser: sdxl.controlnet_from(denoiser, 0),
            {"controlnet_conditioning_channel_order": "bgr"},
            "controlnet_conditioning_channel_order 'bgr' is not supported, SDXL has 'rgb'",
        ),
    ],
)
def test_other_kinds_of_controlnets_are_refused(kind, config, grow, changes, message, tmp_path):
    net = grow(base(kind, config))
    save_component(net.state_dict(), {**net.config.to_dict(), **changes}, tmp_path)
    with pytest.raises(ValueError, match=message):
        load_controlnet(type(net), tmp_path)


def test_a_controlnet_of_stable_diffusion_1_is_refused(tmp_path):
    """It has the same class."""
    net = sdxl.controlnet_from(base(SDXL, UNET), 0)
    values = net.config.to_dict()
    del values["addition_embed_type"]
    save_component(net.state_dict(), values, tmp_path)
    with pytest.raises(ValueError, match="it is not an SDXL ControlNet"):
        load_controlnet(sdxl.ControlNetModel, tmp_path)


ROWS = {"context": drawn(2, 7, 20), "pooled": drawn(2, 12), "sizes": torch.full((2, 6), 32.0)}
PREDICTIONS = {  # kind, sizes, how a ControlNet is made, shapes of noisy latents and of the picture
    "sdxl": (SDXL, UNET, lambda d: sdxl.controlnet_from(d, 0), (2, 4, 2, 3), (2, 3, 16, 24)),
    "sd3": (SD3, SD35, sd3.controlnet_from, (2, 4, 4, 6), (2, 4, 4, 6)),
    "flux1": (Flux1, FLUX1, flux1.controlnet_from, (2, 2, 4, 6), (2, 2, 4, 6)),
    "flux2": (Flux2, FLUX2, flux2.controlnet_from, (2, 8, 2, 3), (2, 8, 2, 3)),
}


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_prediction_follows_a_picture_as_soon_as_the_controlnet_has_learnt(name):
    kind, config, grow, noisy_shape, picture_shape = PREDICTIONS[name]
    denoiser = base(kind, config)
    net = grow(denoiser)
    width = denoiser.config.pooled_dim if kind is SDXL else 12
    width = denoiser.config.pooled_projection_dim if kind is SD3 else width
    given = denoiser.conditioning({**ROWS, "pooled": drawn(2, width)})
    noisy, t, picture = drawn(*noisy_shape), torch.tensor([0.2, 0.9]), drawn(*picture_shape, seed=3)
    plain = denoiser.predict(noisy, t, given)
    asked = (net, denoiser, noisy, t, given)
    first = denoiser.predict(noisy, t, given, residuals_of(*asked, picture))
    assert torch.equal(first, plain)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1
    full, none = (residuals_of(*asked, picture, conditioning_scale=s) for s in (1.0, 0.0))
    controlled = denoiser.predict(noisy, t, given, full)
    assert not torch.allclose(controlled, plain, atol=1e-3)
    assert torch.equal(denoiser.predict(noisy, t, given, none), plain)
    other = denoiser.predict(noisy, t, given, residuals_of(*asked, picture.flip(-1)))
    assert not torch.equal(other, controlled)


def test_references_beside_a_controlnet_are_refused():
    denoiser = base(Flux1, FLUX1)
    given = Flux1Conditioning(drawn(2, 7, 20), drawn(2, 12), references=(drawn(2, 2, 2, 2),))
    noisy, t = drawn(2, 2, 4, 6), torch.tensor([0.2, 0.9])
    with pytest.raises(ValueError, match="sees neither references nor what to fill"):
        residuals_of(flux1.controlnet_from(denoiser), denoiser, noisy, t, given, noisy)


def widened(kind: Any) -> tuple[Any, Any, Any, torch.Tensor, torch.Tensor]:
    """Give a base, itself widened, their conditioning, a noisy picture and one to follow."""
    if kind is Flux1:
        denoiser = base(Flux1, FLUX1)
        plain: Any = Flux1Conditioning(drawn(2, 7, 20), drawn(2, 12))
        return denoiser, v1.widen_for_control(denoiser), plain, drawn(2, 2, 4, 6), drawn(2, 2, 4, 6)
    denoiser = base(Flux2, FLUX2)
    plain = Flux2Conditioning(drawn(2, 7, 20))
    return denoiser, v2.widen_for_control(denoiser), plain, drawn(2, 8, 2, 3), drawn(2, 8, 2, 3)


@pytest.mark.parametrize("kind", [Flux1, Flux2])
def test_a_model_widened_for_control_predicts_at_first_what_its_base_does(kind):
    denoiser, wide, plain, noisy, picture = widened(kind)
    t, seen = torch.tensor([0.2, 0.9]), plain._replace(fill=picture)
    prediction = wide.predict(noisy, t, seen)
    assert torch.equal(prediction, denoiser.predict(noisy, t, plain))
    prediction.square().sum().backward()
    assert wide.network.x_embedder.weight.grad[:, 8:].any()
    assert denoiser.config.in_channels == denoiser.network.x_embedder.in_features == 8
    assert (wide.config.in_channels, wide.config.out_channels) == (16, 8)


@pytest.mark.parametrize("kind", [Flux1, Flux2])
def test_a_widened_model_is_a_folder_like_any_other(kind, tmp_path):
    _, wide, plain, noisy, picture = widened(kind)
    with torch.no_grad():
        wide.network.x_embedder.weight += 0.1
    save_denoiser(wide, tmp_path)
    read = load_denoiser(kind, tmp_path)
    t, seen = torch.tensor([0.2, 0.9]), plain._replace(fill=picture)
    assert torch.equal(read.predict(noisy, t, seen), wide.predict(noisy, t, seen))
    with pytest.raises(ValueError, match="already takes 8 channels"):
        (v1 if kind is Flux1 else v2).widen_for_control(read)
