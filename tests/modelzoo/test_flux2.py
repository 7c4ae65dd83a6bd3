"""Properties of FLUX.2 that hold without an oracle."""

from __future__ import annotations

import pytest
import torch

from modelzoo.denoiser import init_denoiser, load_denoiser, save_denoiser
from modelzoo.flux.components.positions import image_positions, joint_rope
from modelzoo.flux.v2.config import Flux2Config
from modelzoo.flux.v2.model import Flux2, Flux2Conditioning
from modelzoo.flux.v2.positions import text_positions

TINY = {
    "in_channels": 8,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 20,
    "axes_dims_rope": (4, 4, 4, 4),
}
KLEIN = Flux2Config(**TINY, guidance_embeds=False)
DEV = Flux2Config(**TINY, guidance_embeds=True)
CPU = torch.device("cpu")


def awake(config: Flux2Config = KLEIN) -> Flux2:
    """A denoiser whose gates and last projection are not zero."""
    denoiser = init_denoiser(Flux2, config, 0)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return denoiser


def a_batch():
    conditioning = Flux2Conditioning(torch.randn(2, 5, 20))
    return torch.randn(2, 8, 2, 3), torch.rand(2), conditioning


def test_an_untrained_denoiser_predicts_zero_and_begins_with_the_identity():
    denoiser = init_denoiser(Flux2, KLEIN, 0)
    noisy, t, conditioning = a_batch()
    assert not denoiser.predict(noisy, t, conditioning).any()
    for name, parameter in denoiser.network.named_parameters():
        zero = name.startswith(("proj_out", "norm_out")) or "modulation" in name
        assert bool(parameter.any()) != zero, name


def test_initialisation_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = init_denoiser(Flux2, KLEIN, 3).network.state_dict()
    state = torch.get_rng_state()
    second = init_denoiser(Flux2, KLEIN, 3).network.state_dict()
    other = init_denoiser(Flux2, KLEIN, 4).network.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], v) for k, v in second.items())
    assert not torch.equal(first["x_embedder.weight"], other["x_embedder.weight"])
    assert all(v.isfinite().all() for v in first.values())


def test_every_parameter_receives_a_gradient():
    denoiser = awake(DEV)
    noisy, t, conditioning = a_batch()
    conditioning = denoiser.conditioning({"context": conditioning.context})
    denoiser.predict(noisy, t, conditioning).square().sum().backward()
    for name, parameter in denoiser.network.named_parameters():
        assert parameter.grad is not None, name
        # the text stream of the last joint block reaches the image through the single blocks
        assert parameter.grad.any(), name


def test_one_batch_can_be_learned_by_heart():
    denoiser = init_denoiser(Flux2, KLEIN, 0)
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
    noisy, t, conditioning = a_batch()
    with torch.no_grad():
        before = denoiser.predict(noisy, t, conditioning)
        other_text = Flux2Conditioning(conditioning.context.flip(1))  # the order of tokens
        for other in (
            denoiser.predict(noisy, 1 - t, conditioning),
            denoiser.predict(noisy, t, other_text),
            denoiser.predict(noisy.flip(3), t, conditioning).flip(3),
        ):
            assert (other - before).abs().max() > 1e-4


def test_samples_of_a_batch_do_not_see_each_other():
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    with torch.no_grad():
        whole = denoiser.predict(noisy, t, conditioning)
        alone = denoiser.predict(noisy[1:], t[1:], Flux2Conditioning(conditioning.context[1:]))
    torch.testing.assert_close(whole[1:], alone)


def test_a_table_made_while_sampling_serves_training():
    """Cached tensors made in inference mode could not be saved for a backward pass."""
    image_positions.cache_clear()
    text_positions.cache_clear()
    joint_rope.cache_clear()
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    with torch.inference_mode():
        denoiser.predict(noisy, t, conditioning)
    denoiser.predict(noisy, t, conditioning).sum().backward()


def test_a_table_is_made_once_for_a_shape():
    joint_rope.cache_clear()
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    for _ in range(3):
        denoiser.predict(noisy, t, conditioning)
        denoiser.predict(noisy.transpose(2, 3), t, conditioning)
    assert joint_rope.cache_info().misses == 2


def test_guidance_is_for_models_that_embed_it():
    noisy, t, conditioning = a_batch()
    with pytest.raises(ValueError, match="guidance_embeds is True, but guidance was not given"):
        awake(DEV).predict(noisy, t, conditioning)
    guided = conditioning._replace(guidance=torch.ones(2))
    with pytest.raises(ValueError, match="guidance_embeds is False, but guidance was given"):
        awake(KLEIN).predict(noisy, t, guided)
    rows = {"context": conditioning.context}
    assert awake(KLEIN).conditioning(rows).guidance is None
    with pytest.raises(ValueError, match=r"guidance 2\.0 was given"):
        awake(KLEIN).conditioning(rows, guidance=2.0)
    assert awake(DEV).conditioning(rows).guidance.tolist() == [4, 4]
    assert awake(DEV).conditioning(rows, guidance=2.0).guidance.tolist() == [2, 2]


def test_a_saved_denoiser_is_the_same_after_loading(tmp_path):
    denoiser = awake()
    save_denoiser(denoiser, tmp_path)
    loaded = load_denoiser(Flux2, tmp_path)
    batch = a_batch()
    assert torch.equal(loaded.predict(*batch), denoiser.predict(*batch))
    assert loaded.network.config == KLEIN
    half = load_denoiser(Flux2, tmp_path, torch.bfloat16).network
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_half_precision_weights_take_and_give_float32_latents():
    """A sampler keeps its latents in float32 whatever the weights are."""
    denoiser = awake()
    noisy, t, conditioning = a_batch()
    expected = denoiser.predict(noisy, t, conditioning)
    denoiser.network.to(torch.bfloat16)
    rows = denoiser.conditioning({"context": conditioning.context})
    velocity = denoiser.predict(noisy, t, rows)
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
        ({"axes_dims_rope": (4, 4, 4, 8)}, "must sum to the width of a head, 16"),
        ({"axes_dims_rope": (8, 8)}, "four even numbers"),
        ({"axes_dims_rope": (5, 3, 4, 4)}, "four even numbers"),
        ({"patch_size": 2}, "patch_size 2"),
        ({"num_single_layers": 0}, "num_single_layers 0 must be at least 1"),
        ({"pooled_projection_dim": 768}, "unknown keys"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Flux2Config.from_dict({**TINY, **changes})


def test_a_transformer_of_another_class_is_refused(tmp_path):
    from modelzoo.checkpoints.folder import save_component

    state = awake().network.state_dict()
    config = {**KLEIN.to_dict(), "_class_name": "FluxTransformer2DModel"}
    save_component(state, config, tmp_path)
    with pytest.raises(ValueError, match="FluxTransformer2DModel"):
        load_denoiser(Flux2, tmp_path)
