"""Properties of FLUX.1 that hold without an oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from modelzoo.denoiser import init_denoiser, load_denoiser, save_denoiser
from modelzoo.flux.components.conditions import fill_condition
from modelzoo.flux.components.positions import image_positions, joint_rope, reference_positions
from modelzoo.flux.v1 import presets
from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.latents import text_positions
from modelzoo.flux.v1.model import Flux1, Flux1Conditioning
from modelzoo.flux.v1.transformer import JointBlock, SingleBlock

SCHNELL = Flux1Config(
    in_channels=8,
    num_layers=1,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=20,
    pooled_projection_dim=12,
    axes_dims_rope=(4, 6, 6),
)
DEV = replace(SCHNELL, guidance_embeds=True)
FILL = replace(DEV, in_channels=32, out_channels=8)  # pictures of 2 channels, 2 pixels a cell


def awake(config: Flux1Config = SCHNELL) -> Flux1:
    """A denoiser whose gates and last projection are not zero."""
    denoiser = init_denoiser(Flux1, config, 0)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return denoiser


def a_batch():
    conditioning = Flux1Conditioning(torch.randn(2, 5, 20), torch.randn(2, 12))
    return torch.randn(2, 2, 4, 6), torch.rand(2), conditioning


def test_an_untrained_denoiser_predicts_zero_and_begins_with_the_identity():
    denoiser = init_denoiser(Flux1, DEV, 0)
    noisy, t, conditioning = a_batch()
    rows = {"context": conditioning.context, "pooled": conditioning.pooled}
    assert not denoiser.predict(noisy, t, denoiser.conditioning(rows)).any()
    zero = ("proj_out", "norm_out")
    for name, parameter in denoiser.network.named_parameters():
        modulates = name.endswith(("norm1.linear.weight", "context.linear.weight"))
        single = name.endswith(".norm.linear.weight")
        is_zero = name.startswith(zero) or name.endswith("bias") or modulates or single
        assert bool(parameter.any()) != is_zero, name


def test_initialisation_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = init_denoiser(Flux1, DEV, 3).network.state_dict()
    state = torch.get_rng_state()
    second = init_denoiser(Flux1, DEV, 3).network.state_dict()
    other = init_denoiser(Flux1, DEV, 4).network.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], v) for k, v in second.items())
    assert not torch.equal(first["x_embedder.weight"], other["x_embedder.weight"])
    assert all(v.isfinite().all() for v in first.values())


def test_every_parameter_receives_a_gradient():
    denoiser = awake(DEV)
    noisy, t, conditioning = a_batch()
    rows = {"context": conditioning.context, "pooled": conditioning.pooled}
    denoiser.predict(noisy, t, denoiser.conditioning(rows)).square().sum().backward()
    for name, parameter in denoiser.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_one_batch_can_be_learned_by_heart():
    denoiser = init_denoiser(Flux1, SCHNELL, 0)
    noisy, t, conditioning = a_batch()
    target = torch.randn_like(noisy)
    optimizer = torch.optim.Adam(denoiser.network.parameters(), lr=5e-3)
    for _ in range(150):
        loss = (denoiser.predict(noisy, t, conditioning) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_time_text_place_and_references_all_matter():
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    looking = conditioning._replace(references=(torch.randn(2, 2, 2, 4),))
    with torch.no_grad():
        before = denoiser.predict(noisy, t, conditioning)
        for other in (
            denoiser.predict(noisy, 1 - t, conditioning),
            denoiser.predict(noisy, t, conditioning._replace(context=-conditioning.context)),
            denoiser.predict(noisy, t, conditioning._replace(pooled=-conditioning.pooled)),
            denoiser.predict(noisy.flip(3), t, conditioning).flip(3),
            denoiser.predict(noisy, t, looking),
        ):
            assert other.shape == before.shape
            assert (other - before).abs().max() > 1e-4


def test_the_order_of_text_tokens_does_not_matter():
    """They all stand at the origin; T5 has told them apart before."""
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    turned = conditioning._replace(context=conditioning.context.flip(1))
    with torch.no_grad():
        same = denoiser.predict(noisy, t, conditioning), denoiser.predict(noisy, t, turned)
    torch.testing.assert_close(*same)


def test_samples_of_a_batch_do_not_see_each_other():
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    second = Flux1Conditioning(conditioning.context[1:], conditioning.pooled[1:])
    with torch.no_grad():
        whole = denoiser.predict(noisy, t, conditioning)
        alone = denoiser.predict(noisy[1:], t[1:], second)
    torch.testing.assert_close(whole[1:], alone)


def test_a_table_made_while_sampling_serves_training_and_is_made_once():
    for cached in (image_positions, reference_positions, text_positions, joint_rope):
        cached.cache_clear()
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    looking = conditioning._replace(references=(torch.randn(2, 2, 2, 4),))
    with torch.inference_mode():
        denoiser.predict(noisy, t, looking)
    denoiser.predict(noisy, t, looking).sum().backward()
    assert joint_rope.cache_info().misses == 1


def test_guidance_is_for_models_that_embed_it():
    noisy, t, conditioning = a_batch()
    with pytest.raises(ValueError, match="guidance_embeds is True, but guidance was not given"):
        awake(DEV).predict(noisy, t, conditioning)
    guided = conditioning._replace(guidance=torch.ones(2))
    with pytest.raises(ValueError, match="guidance_embeds is False, but guidance was given"):
        awake(SCHNELL).predict(noisy, t, guided)
    rows = {"context": conditioning.context, "pooled": conditioning.pooled}
    assert awake(SCHNELL).conditioning(rows).guidance is None
    with pytest.raises(ValueError, match=r"guidance 2\.0 was given"):
        awake(SCHNELL).conditioning(rows, guidance=2.0)
    assert awake(DEV).conditioning(rows).guidance.tolist() == [3.5, 3.5]
    assert awake(FILL).conditioning(rows).guidance.tolist() == [30, 30]
    assert awake(DEV).conditioning(rows, guidance=2.0).guidance.tolist() == [2, 2]


def test_missing_rows_are_named():
    with pytest.raises(ValueError, match=r"rows have \['context'\], but \['pooled'\] are missing"):
        awake().conditioning({"context": torch.randn(2, 5, 20)})


def test_only_a_fill_model_takes_what_to_fill_and_always():
    noisy, t, conditioning = a_batch()
    fill = fill_condition(torch.randn(2, 2, 4, 6), torch.ones(2, 1, 8, 12))
    guided = conditioning._replace(guidance=torch.ones(2))
    before = awake(FILL).predict(noisy, t, guided._replace(fill=fill))
    assert before.shape == noisy.shape
    with pytest.raises(ValueError, match="have 8 channels, but in_channels is 32"):
        awake(FILL).predict(noisy, t, guided)
    with pytest.raises(ValueError, match="have 32 channels, but in_channels is 8"):
        awake(DEV).predict(noisy, t, guided._replace(fill=fill))
    with pytest.raises(ValueError, match="img_cond_seq have 8 channels"):
        awake(FILL).predict(noisy, t, guided._replace(fill=fill, references=(noisy,)))


def test_the_pixels_of_a_mask_become_channels_of_their_cell():
    mask = torch.zeros(1, 1, 4, 6)
    mask[0, 0, 3, 4] = 1  # the second row and first column of the last cell
    condition = fill_condition(torch.full((1, 3, 2, 3), 7.0), mask)
    assert condition.shape == (1, 3 + 4, 2, 3)
    assert (condition[:, :3] == 7).all()
    assert condition[:, 3:].nonzero().tolist() == [[0, 2, 1, 2]]


def test_latents_that_do_not_divide_into_patches_are_refused():
    _, t, conditioning = a_batch()
    with pytest.raises(ValueError, match="latents of 4 x 5 cells do not divide"):
        awake().predict(torch.randn(2, 2, 4, 5), t, conditioning)


def test_positions_of_three_columns_are_refused():
    inputs = (torch.zeros(5, 3), torch.zeros(6, 3))
    with pytest.raises(ValueError, match=r"\[5, 3\], but the last axis must be 4"):
        joint_rope(inputs, DEV.rope_axes, 10_000)


def test_blocks_are_listed_joint_ones_first():
    kinds = [type(block) for block in awake().blocks()]
    assert kinds == [JointBlock, SingleBlock, SingleBlock]
    assert awake().num_tokens(4, 6) == 6


def test_a_saved_denoiser_is_the_same_after_loading(tmp_path):
    denoiser = awake()
    save_denoiser(denoiser, tmp_path)
    loaded = load_denoiser(Flux1, tmp_path)
    batch = a_batch()
    assert torch.equal(loaded.predict(*batch), denoiser.predict(*batch))
    assert loaded.config == SCHNELL
    half = load_denoiser(Flux1, tmp_path, torch.bfloat16).network
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_half_precision_weights_take_and_give_float32_latents():
    """A sampler keeps its latents in float32 whatever the weights are."""
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    expected = denoiser.predict(noisy, t, conditioning)
    denoiser.network.to(torch.bfloat16)
    rows = {"context": conditioning.context, "pooled": conditioning.pooled}
    velocity = denoiser.predict(noisy, t, denoiser.conditioning(rows))
    assert velocity.dtype == torch.float32
    torch.testing.assert_close(velocity, expected, rtol=0.1, atol=0.1)


def test_autocast_computes_in_half_precision_and_trains():
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    expected = denoiser.predict(noisy, t, conditioning)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = denoiser.predict(noisy, t, conditioning)
    velocity.sum().backward()
    torch.testing.assert_close(velocity, expected, rtol=0.1, atol=0.1)
    grads = [p.grad for p in denoiser.network.parameters()]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes_dims_rope": (4, 6, 8)}, "must sum to the width of a head, 16"),
        ({"axes_dims_rope": (4, 4, 4, 4)}, "three even numbers"),
        ({"axes_dims_rope": (5, 5, 6)}, "three even numbers"),
        ({"patch_size": 2}, "patch_size 2"),
        ({"num_single_layers": 0}, "num_single_layers 0 must be at least 1"),
        ({"eps": 1e-6}, "unknown keys"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Flux1Config.from_dict({"attention_head_dim": 16, "axes_dims_rope": (4, 6, 6), **changes})


def the_model(variant: str | None = "dev", **transformer: object) -> dict:
    """The section `model` as the specification prints it, with changes."""
    sizes = {
        "hidden_size": 3072,
        "num_attention_heads": 24,
        "num_layers": 19,
        "num_single_layers": 38,
        "in_channels": 64,
        "guidance_embeds": True,
    }
    return {
        "type": "flux",
        "variant": variant,
        "transformer": {**sizes, **transformer},
        "vae": {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159},
        "text_encoder": {"t5": {"hidden_size": 4096}, "clip_l": {"hidden_size": 768}},
        "scheduler": {"type": "flow_matching"},
    }


@pytest.mark.parametrize("variant", ["dev", None, "kontext"])
def test_the_block_of_the_specification_is_the_released_model(variant):
    assert presets.transformer_config(the_model(variant)) == Flux1Config(guidance_embeds=True)


def test_fill_looks_at_the_masked_picture_and_every_pixel_of_the_mask():
    config = presets.transformer_config(the_model("fill"))
    assert (config.in_channels, config.out_channels, config.fill_channels) == (384, 64, 320)


def test_sizes_follow_the_parameters():
    model = the_model("schnell", hidden_size=32, num_attention_heads=2, axes_dims_rope=[4, 6, 6])
    model["text_encoder"] = {"t5": {"hidden_size": 20}, "clip_l": {"hidden_size": 12}}
    config = presets.transformer_config(model)
    assert (config.dim, config.attention_head_dim, config.axes_dims_rope) == (32, 16, (4, 6, 6))
    assert (config.joint_attention_dim, config.pooled_projection_dim) == (20, 12)
    vae = presets.autoencoder_config(model)
    assert (vae["scaling_factor"], vae["shift_factor"], vae["latent_channels"]) == (
        0.3611,
        0.1159,
        16,
    )
    assert len(vae["up_block_types"]) == 4


@pytest.mark.parametrize(
    ("variant", "pipeline", "shift", "is_dynamic"),
    [
        ("dev", "FluxPipeline", 3.0, True),
        ("schnell", "FluxPipeline", 1.0, False),
        ("kontext", "FluxKontextPipeline", 3.0, True),
        ("fill", "FluxFillPipeline", 3.0, True),
    ],
)
def test_a_variant_has_its_pipeline_and_its_shift(variant, pipeline, shift, is_dynamic):
    model = the_model(variant)
    assert presets.model_index(model)["_class_name"] == pipeline
    scheduler = presets.scheduler_config(model)
    assert (scheduler["shift"], scheduler["use_dynamic_shifting"]) == (shift, is_dynamic)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (the_model("pro"), r"model\.variant: unknown name 'pro'"),
        (the_model(qk_norm=False), "qk_norm: False"),
        (the_model(mlp_ratio=3.0), "mlp_ratio: 3"),
        (the_model(hidden_size=3073), "hidden_size 3073 does not divide"),
        (the_model(hidden_size=1536), "must sum to the width of a head, 64"),
        (the_model(in_channels=16), "in_channels 16 must be 4"),
        (the_model(vector_dim=4), r"unknown are \['vector_dim'\]"),
        (the_model(num_layers=None), r"model\.transformer: missing are \['num_layers'\]"),
    ],
)
def test_contradictions_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        presets.transformer_config(model)
