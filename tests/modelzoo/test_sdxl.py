"""Properties of SDXL that hold without an oracle."""

from __future__ import annotations

import pytest
import torch

from modelzoo.checkpoints.folder import save_component
from modelzoo.denoiser import init_denoiser, load_denoiser, save_denoiser
from modelzoo.sdxl import presets
from modelzoo.sdxl.config import UNetConfig
from modelzoo.sdxl.model import SDXL
from modelzoo.sdxl.resnet import ResnetBlock2D
from modelzoo.sdxl.transformer import TransformerBlock

MODEL = {
    "type": "sdxl",
    "unet": {
        "in_channels": 4,
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [2],
        "transformer_depth": [1, 2],
        "num_head_channels": 8,
        "norm_num_groups": 4,
        "context_dim": 20,
    },
    "vae": {"latent_channels": 4},
    "text_encoder": {"clip_l": {"hidden_size": 8}, "clip_g": {"hidden_size": 12}},
}
TINY = presets.unet_config(MODEL)


def awake() -> SDXL:
    """A denoiser whose last layers are not zero."""
    denoiser = init_denoiser(SDXL, TINY, 0)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return denoiser


def rows(batch: int = 2) -> dict[str, torch.Tensor]:
    return {
        "context": torch.randn(batch, 5, 20),
        "pooled": torch.randn(batch, 12),
        "sizes": torch.randint(0, 2000, (batch, 6)),
    }


def a_batch(denoiser: SDXL):
    return torch.randn(2, 4, 4, 6), torch.rand(2), denoiser.conditioning(rows())


def test_an_untrained_denoiser_predicts_zero_and_every_layer_already_works():
    denoiser = init_denoiser(SDXL, TINY, 0)
    assert not denoiser.predict(*a_batch(denoiser)).any()
    last = ("conv2", "proj_out", "conv_out")
    for name, parameter in denoiser.network.named_parameters():
        layer, kind = name.split(".")[-2:]
        if kind == "weight":
            assert bool(parameter.any()) != (layer in last), name


def test_initialisation_depends_on_the_seed_alone():
    first = init_denoiser(SDXL, TINY, 3).network.state_dict()
    state = torch.get_rng_state()
    second = init_denoiser(SDXL, TINY, 3).network.state_dict()
    other = init_denoiser(SDXL, TINY, 4).network.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], v) for k, v in second.items())
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])
    assert all(v.isfinite().all() for v in first.values())


def test_every_parameter_receives_a_gradient():
    denoiser = awake()
    denoiser.predict(*a_batch(denoiser)).square().sum().backward()
    for name, parameter in denoiser.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_one_batch_can_be_learned_by_heart():
    denoiser = init_denoiser(SDXL, TINY, 0)
    batch = a_batch(denoiser)
    target = torch.randn_like(batch[0])
    optimizer = torch.optim.Adam(denoiser.network.parameters(), lr=5e-3)
    for _ in range(150):
        loss = (denoiser.predict(*batch) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_time_text_place_and_sizes_all_matter():
    denoiser = awake()
    noisy, t, conditioning = a_batch(denoiser)
    with torch.no_grad():
        before = denoiser.predict(noisy, t, conditioning)
        for other in (
            denoiser.predict(noisy, 1 - t, conditioning),
            denoiser.predict(noisy, t, conditioning._replace(context=-conditioning.context)),
            denoiser.predict(noisy, t, conditioning._replace(pooled=-conditioning.pooled)),
            denoiser.predict(noisy, t, conditioning._replace(sizes=conditioning.sizes.flip(1))),
            denoiser.predict(noisy.flip(3), t, conditioning).flip(3),
        ):
            assert (other - before).abs().max() > 1e-4


def test_samples_of_a_batch_do_not_see_each_other():
    denoiser = awake()
    noisy, t, conditioning = a_batch(denoiser)
    with torch.no_grad():
        whole = denoiser.predict(noisy, t, conditioning)
        alone = denoiser.predict(
            noisy[1:], t[1:], type(conditioning)(*(x[1:] for x in conditioning))
        )
    torch.testing.assert_close(whole[1:], alone)


def test_blocks_are_all_resnets_and_transformer_blocks_as_they_run():
    denoiser = awake()
    blocks = denoiser.blocks()
    assert len([b for b in blocks if isinstance(b, ResnetBlock2D)]) == 2 + 2 + 4
    assert len([b for b in blocks if isinstance(b, TransformerBlock)]) == 2 * (1 + 1 + 2)
    assert len(blocks) == len(set(blocks)) == 16
    ran = []
    for block in blocks:
        block.register_forward_hook(lambda module, *_: ran.append(module))
    denoiser.predict(*a_batch(denoiser))
    assert ran == blocks


def test_blocks_compile_without_a_graph_break():
    denoiser = awake()
    batch = a_batch(denoiser)
    expected = denoiser.predict(*batch)
    expected.sum().backward()
    gradients = {k: p.grad.clone() for k, p in denoiser.network.named_parameters()}
    denoiser.network.zero_grad()
    chosen = {type(block): block for block in denoiser.blocks()}
    for block in chosen.values():
        block.compile(fullgraph=True, backend="aot_eager")
    prediction = denoiser.predict(*batch)
    prediction.sum().backward()
    torch.testing.assert_close(prediction, expected)
    for name, parameter in denoiser.network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5, msg=name)


def test_checkpointing_keeps_less_and_gives_the_same_gradients():
    denoiser = awake()
    batch = a_batch(denoiser)
    kept, gradients = [], []
    for checkpointing in (False, True):
        denoiser.network.gradient_checkpointing = checkpointing
        sizes: dict[int, int] = {}
        parameters = {p.data_ptr() for p in denoiser.network.parameters()}

        def pack(tensor, sizes=sizes, parameters=parameters):
            if tensor.data_ptr() not in parameters:
                sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        denoiser.network.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = denoiser.predict(*batch).sum()
        kept.append(sum(sizes.values()))
        loss.backward()
        gradients.append([p.grad.clone() for p in denoiser.network.parameters()])
    assert kept[1] < kept[0] / 2
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_guidance_and_missing_rows_are_refused():
    denoiser = awake()
    with pytest.raises(ValueError, match=r"guidance 2\.0 was given"):
        denoiser.conditioning(rows(), guidance=2.0)
    with pytest.raises(ValueError, match=r"\['pooled', 'sizes'\] are missing"):
        denoiser.conditioning({"context": torch.randn(1, 5, 20)})


def test_half_precision_weights_take_and_give_float32_latents_and_exact_sizes():
    """A sampler keeps its latents in float32 whatever the weights are."""
    denoiser = awake()
    noisy, t, conditioning = a_batch(denoiser)
    expected = denoiser.predict(noisy, t, conditioning)
    denoiser.network.to(torch.bfloat16)
    given = {**conditioning._asdict(), "sizes": torch.full((2, 6), 1023)}
    halved = denoiser.conditioning(given)
    assert halved.context.dtype == halved.pooled.dtype == torch.bfloat16
    assert halved.sizes.tolist() == [[1023.0] * 6] * 2
    noise = denoiser.predict(noisy, t, halved._replace(sizes=conditioning.sizes))
    assert noise.dtype == torch.float32
    torch.testing.assert_close(noise, expected, rtol=0.1, atol=0.1)


def test_autocast_computes_in_half_precision_and_trains():
    denoiser = awake()
    batch = a_batch(denoiser)
    expected = denoiser.predict(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        noise = denoiser.predict(*batch)
    noise.sum().backward()
    torch.testing.assert_close(noise, expected, rtol=0.1, atol=0.1)
    grads = [p.grad for p in denoiser.network.parameters()]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


def test_a_saved_denoiser_is_the_same_after_loading(tmp_path):
    denoiser = awake()
    save_denoiser(denoiser, tmp_path)
    loaded = load_denoiser(SDXL, tmp_path)
    batch = a_batch(denoiser)
    assert torch.equal(loaded.predict(*batch), denoiser.predict(*batch))
    assert loaded.config == TINY
    half = load_denoiser(SDXL, tmp_path, torch.bfloat16).network
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_a_network_of_another_model_is_refused(tmp_path):
    """Stable Diffusion 1.5 has the same class."""
    values = {
        k: v for k, v in TINY.to_dict().items() if k != "projection_class_embeddings_input_dim"
    }
    save_component(awake().network.state_dict(), values, tmp_path)
    with pytest.raises(ValueError, match="it is not an SDXL UNet"):
        load_denoiser(SDXL, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn 'gelu' is not supported, SDXL has 'silu'"),
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim 256 is not supported, SDXL has None"),
        ({"use_linear_projection": False}, "use_linear_projection False"),
        ({"attention_head_dim": 8}, "must be a list, one number a level"),
        ({"attention_head_dim": [1]}, "different numbers of levels"),
        ({"transformer_layers_per_block": [1, 2, 3]}, "different numbers of levels"),
        ({"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}, "must mirror each other"),
        ({"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}, "must mirror each other"),
        ({"norm_num_groups": 3}, "a level of 8 channels needs norm_num_groups"),
        ({"attention_head_dim": [1, 3]}, "a level of 16 channels needs"),
        (
            {"projection_class_embeddings_input_dim": 1536},
            "plus 6 \\* addition_time_embed_dim = 1536",
        ),
        (
            {
                "transformer_layers_per_block": [1, 2, 4],
                "reverse_transformer_layers_per_block": [1, 2],
            },
            r"must be \[2, 1\]",
        ),
        ({"colour": 1}, "unknown keys"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig.from_dict({**TINY.to_dict(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 8}, r"model.unet.in_channels 8 must be model.vae.latent_channels 4"),
        ({"context_dim": 24}, "context_dim 24 must be the hidden_size of clip_l plus"),
        ({"attention_resolutions": [4]}, r"\[4\] are no factors of a level.*\[1, 2\]"),
        ({"transformer_depth": [1]}, "must have one entry for each of the 2 levels"),
        ({"transformer_depth": [1, 0]}, "must be at least 1 for the mid block"),
        ({"attention_resolutions": [1, 2], "transformer_depth": [0, 1]}, "must be at least 1"),
        ({"num_head_channels": 5}, r"num_head_channels 5 does not divide \[16\]"),
        ({"dims": 2}, r"unknown are \['dims'\]"),
    ],
)
def test_impossible_parameters_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        presets.unet_config({**MODEL, "unet": {**MODEL["unet"], **changes}})


def test_parameters_left_out_are_those_of_the_released_model():
    assert presets.unet_config({"type": "sdxl"}) == UNetConfig()
    nothing = {name: None for name in presets.UNET}
    assert presets.unet_config({"type": "sdxl", "unet": nothing, "vae": None}) == UNetConfig()


def test_an_entry_more_than_levels_is_the_depth_of_the_mid_block():
    def depths(given):
        return presets.unet_config({**MODEL, "unet": {**MODEL["unet"], "transformer_depth": given}})

    assert depths([1, 2, 2]) == TINY
    assert [level.depth for level in depths([1, 2, 5]).levels] == [0, 2]
    assert depths([1, 2, 5]).mid_depth == 5
    assert TINY.mid_depth == 2


def test_the_sections_of_the_folder_are_as_released():
    vae = presets.autoencoder_config({"type": "sdxl", "vae": {"shift_factor": None}})
    assert vae["scaling_factor"] == 0.13025
    assert vae["latent_channels"] == 4
    assert vae["use_quant_conv"]
    assert "shift_factor" not in vae
    taught_v = {"scheduler": {"type": "ddpm", "prediction_type": "v_prediction"}}
    assert presets.scheduler_config({})["prediction_type"] == "epsilon"
    assert presets.scheduler_config(taught_v)["prediction_type"] == "v_prediction"
    assert presets.model_index({})["force_zeros_for_empty_prompt"] is True
