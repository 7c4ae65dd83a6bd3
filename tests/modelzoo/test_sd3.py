"""Properties of SD3.5 that hold without an oracle."""

from __future__ import annotations

import pytest
import torch

from modelzoo.denoiser import init_denoiser, load_denoiser, save_denoiser
from modelzoo.sd3 import presets
from modelzoo.sd3.config import SD3Config
from modelzoo.sd3.model import SD3, SD3Conditioning
from modelzoo.text_encoders.configs import text_part_configs

TINY = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 12,
    "num_attention_heads": 2,
    "joint_attention_dim": 20,
    "caption_projection_dim": 24,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 12,
    "qk_norm": "rms_norm",
}
LARGE = SD3Config(**TINY)
MEDIUM = SD3Config(**TINY, dual_attention_layers=(0,))
SPEC = {  # as the specification prints it
    "type": "sd3",
    "transformer": {
        "hidden_size": 1536,
        "num_attention_heads": 24,
        "num_layers": 24,
        "in_channels": 64,
    },
    "vae": {"latent_channels": 16, "scaling_factor": 1.5305},
    "text_encoder": {
        "t5": {"hidden_size": 4096},
        "clip_l": {"hidden_size": 768},
        "clip_g": {"hidden_size": 1280},
    },
}


def awake(config: SD3Config = MEDIUM) -> SD3:
    """A denoiser whose gates and last projection are not zero."""
    denoiser = init_denoiser(SD3, config, 0)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return denoiser


def a_batch():
    conditioning = SD3Conditioning(torch.randn(2, 5, 20), torch.randn(2, 10))
    return torch.randn(2, 4, 4, 6), torch.rand(2), conditioning


def test_an_untrained_denoiser_predicts_zero_and_its_attentions_already_differ():
    denoiser = init_denoiser(SD3, MEDIUM, 0)
    assert not denoiser.predict(*a_batch()).any()
    for name, parameter in denoiser.network.named_parameters():
        if name.endswith("weight"):
            zero = name.startswith(("proj_out", "norm_out")) or ".linear." in name
            assert bool(parameter.any()) != zero, name


def test_initialisation_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = init_denoiser(SD3, MEDIUM, 3).network.state_dict()
    state = torch.get_rng_state()
    second = init_denoiser(SD3, MEDIUM, 3).network.state_dict()
    other = init_denoiser(SD3, MEDIUM, 4).network.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], v) for k, v in second.items())
    assert not torch.equal(first["context_embedder.weight"], other["context_embedder.weight"])
    assert all(v.isfinite().all() for v in first.values())


def test_every_parameter_receives_a_gradient():
    denoiser = awake()
    denoiser.predict(*a_batch()).square().sum().backward()
    nowhere = ("transformer_blocks.2.attn.add_q_proj", "transformer_blocks.2.attn.norm_added_q")
    for name, parameter in denoiser.network.named_parameters():
        assert parameter.grad is not None, name  # what several devices wait for
        assert bool(parameter.grad.any()) != name.startswith(nowhere), name


def test_one_batch_can_be_learned_by_heart():
    denoiser = init_denoiser(SD3, MEDIUM, 0)
    noisy, t, conditioning = a_batch()
    target = torch.randn_like(noisy)
    optimizer = torch.optim.Adam(denoiser.network.parameters(), lr=5e-3)
    for _ in range(150):
        loss = (denoiser.predict(noisy, t, conditioning) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_time_text_and_place_all_matter():
    denoiser = awake()
    noisy, t, (context, pooled) = a_batch()
    with torch.no_grad():
        before = denoiser.predict(noisy, t, SD3Conditioning(context, pooled))
        for other in (
            denoiser.predict(noisy, 1 - t, SD3Conditioning(context, pooled)),
            denoiser.predict(noisy, t, SD3Conditioning(context.flip(0), pooled)),
            denoiser.predict(noisy, t, SD3Conditioning(context, pooled.flip(0))),
            denoiser.predict(noisy.roll(2, 3), t, SD3Conditioning(context, pooled)).roll(-2, 3),
        ):
            assert (other - before).abs().max() > 1e-4


def test_samples_of_a_batch_do_not_see_each_other():
    denoiser = awake()
    noisy, t, (context, pooled) = a_batch()
    with torch.no_grad():
        whole = denoiser.predict(noisy, t, SD3Conditioning(context, pooled))
        alone = denoiser.predict(noisy[1:], t[1:], SD3Conditioning(context[1:], pooled[1:]))
    torch.testing.assert_close(whole[1:], alone)


@pytest.mark.parametrize("block", [0, 1, 2], ids=["dual", "joint", "last"])
def test_a_block_compiles_into_one_graph(block):
    denoiser = awake()
    inputs = (torch.randn(2, 6, 24), torch.randn(2, 5, 24), torch.randn(2, 24))
    eager = denoiser.blocks()[block]
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), eager(*inputs))


def test_rows_become_a_conditioning_in_the_networks_dtype():
    denoiser = awake()
    denoiser.network.to(torch.bfloat16)
    rows = {"context": torch.randn(2, 5, 20), "pooled": torch.randn(2, 10)}
    assert {x.dtype for x in denoiser.conditioning(rows)} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"guidance 2\.0 was given"):
        denoiser.conditioning(rows, guidance=2.0)
    with pytest.raises(ValueError, match=r"\['pooled'\] are missing"):
        denoiser.conditioning({"context": rows["context"]})


def test_a_saved_denoiser_is_the_same_after_loading(tmp_path):
    denoiser = awake()
    save_denoiser(denoiser, tmp_path)
    loaded = load_denoiser(SD3, tmp_path)
    batch = a_batch()
    assert torch.equal(loaded.predict(*batch), denoiser.predict(*batch))
    assert loaded.config == MEDIUM
    half = load_denoiser(SD3, tmp_path, torch.bfloat16).network.state_dict()
    assert {p.dtype for p in half.values()} == {torch.bfloat16}


def test_half_precision_weights_take_and_give_float32_latents():
    """A sampler keeps its latents in float32 whatever the weights are."""
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    expected = denoiser.predict(noisy, t, conditioning)
    denoiser.network.to(torch.bfloat16)
    rows = denoiser.conditioning(conditioning._asdict())
    velocity = denoiser.predict(noisy, t, rows)
    assert velocity.dtype == torch.float32
    torch.testing.assert_close(velocity, expected, rtol=0.1, atol=0.1)


def test_autocast_computes_in_half_precision_and_trains():
    denoiser = awake()
    batch = a_batch()
    expected = denoiser.predict(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = denoiser.predict(*batch)
    velocity.sum().backward()
    torch.testing.assert_close(velocity, expected, rtol=0.1, atol=0.1)
    grads = [p.grad for p in denoiser.network.parameters()]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": None}, "qk_norm None is not supported"),
        ({"caption_projection_dim": 20}, "caption_projection_dim 20 must be .* = 24"),
        ({"attention_head_dim": 7, "caption_projection_dim": 14}, "width 14 must divide by 4"),
        ({"dual_attention_layers": [1, 2]}, r"names \[2\], but only layers before the last"),
        ({"guidance_embeds": True}, "unknown keys"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SD3Config.from_dict({**TINY, **changes})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 4), "latents of 5 x 4 do not divide into patches of 2 x 2"),
        ((4, 26), "2 x 13 tokens was given, but places are stored for at most 12"),
    ],
)
def test_pictures_without_places_are_refused(shape, message):
    conditioning = SD3Conditioning(torch.randn(1, 5, 20), torch.randn(1, 10))
    with pytest.raises(ValueError, match=message):
        awake().predict(torch.randn(1, 4, *shape), torch.rand(1), conditioning)


def test_the_block_of_the_spec_builds_as_it_stands_and_is_medium():
    config = presets.transformer_config(SPEC)
    assert (config.dim, config.num_layers, config.in_channels) == (1536, 24, 16)
    assert (config.joint_attention_dim, config.pooled_projection_dim) == (4096, 2048)
    assert config == presets.transformer_config({**SPEC, "variant": "medium"})
    assert config.dual_attention_layers == tuple(range(13))
    assert (config.sample_size, config.pos_embed_max_size) == (128, 384)
    vae = presets.autoencoder_config(SPEC)
    assert (vae["scaling_factor"], vae["shift_factor"]) == (1.5305, 0.0609)
    unshifted = {**SPEC, "vae": {**SPEC["vae"], "shift_factor": 0.0}}
    assert presets.autoencoder_config(unshifted)["shift_factor"] == 0.0


@pytest.mark.parametrize("variant", ["large", "large-turbo"])
def test_the_large_variants_differ_from_medium_in_places_and_attention(variant):
    config = presets.transformer_config({**SPEC, "variant": variant})
    assert (config.pos_embed_max_size, config.dual_attention_layers) == (192, ())


def test_a_toy_says_its_own_sizes():
    model = {
        "variant": "medium",
        "transformer": {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_layers": 3,
            "in_channels": 8,
            "num_single_layers": 0,
            "guidance_embeds": False,
            "qk_norm": True,
            "mlp_ratio": None,
            "axes_dims_rope": None,
            "pos_embed_max_size": 8,
            "dual_attention_layers": [0],
        },
        "text_encoder": {
            "clip_l": {"hidden_size": 6},
            "clip_g": {"hidden_size": 10},
            "t5": {"hidden_size": 20},
        },
    }
    config = presets.transformer_config(model)
    assert (config.in_channels, config.joint_attention_dim, config.pooled_projection_dim) == (
        2,
        20,
        16,
    )
    assert (config.pos_embed_max_size, config.dual_attention_layers) == (8, (0,))
    projected = {**model["text_encoder"], "clip_g": {"hidden_size": 10, "projection_dim": 4}}
    config = presets.transformer_config({**model, "text_encoder": projected})
    assert config.pooled_projection_dim == 10
    assert config.sample_size == 16  # a pipeline asked for no size draws one that has places


def test_a_toys_text_encoders_give_the_widths_that_its_transformer_takes():
    clip = {"hidden_size": 8, "num_attention_heads": 2}
    text = {"clip_l": clip, "clip_g": clip, "t5": {"hidden_size": 16}}
    model = {**SPEC, "text_encoder": text, "from_scratch": {"vocab_size": 300}}
    parts = text_part_configs(model)
    config = presets.transformer_config(model)
    assert config.joint_attention_dim == parts["t5"]["d_model"]
    pooled = parts["clip_l"]["projection_dim"] + parts["clip_g"]["projection_dim"]
    assert config.pooled_projection_dim == pooled


def changed(**transformer: object) -> dict:
    return {**SPEC, "transformer": {**SPEC["transformer"], **transformer}}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (changed(hidden_size=1500), "hidden_size 1500 does not divide"),
        (changed(in_channels=16), "in_channels 16 must be 4"),
        (changed(num_layers=None), r"model\.transformer: missing are \['num_layers'\]"),
        (changed(vector_dim=4), r"unknown are \['vector_dim'\]"),
        (changed(guidance_embeds=True), "guidance_embeds: True is not possible"),
        (changed(qk_norm=False), "qk_norm: False is not possible"),
        ({**SPEC, "variant": "small"}, r"model\.variant: unknown name 'small'"),
        ({**SPEC, "text_encoder": {"t5": {"hidden_size": 64}}}, "hidden_size 64 must be at least"),
    ],
)
def test_contradictions_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        presets.transformer_config(model)
