"""From the section `model` of params.yaml to a model."""

from __future__ import annotations

import pytest
import torch

from modelzoo.families import FAMILIES, create_model, family

MODEL = {
    "type": "flux2",
    "variant": "klein-4b",
    "dtype": "float32",
    "pretrained_path": None,
    "from_scratch": {"vocab_size": 300},
    "transformer": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_layers": 1,
        "num_single_layers": 1,
        "in_channels": 8,
        "guidance_embeds": False,
        "qk_norm": True,
        "mlp_ratio": 3.0,
        "axes_dims_rope": [4, 4, 4, 4],
    },
    "vae": {"latent_channels": 2, "block_out_channels": [4, 8], "norm_num_groups": 2},
    "text_encoder": {
        "qwen3": {
            "hidden_size": 24,
            "num_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "intermediate_size": 32,
            "max_length": 24,
            "output_layers": [1, 3],
        }
    },
}
FLUX2 = FAMILIES["flux2"]


def changed(**transformer: object) -> dict:
    return {**MODEL, "transformer": {**MODEL["transformer"], **transformer}}


def test_sizes_come_from_the_parameters():
    config = create_model(MODEL).transformer.config
    assert (config.dim, config.attention_head_dim, config.mlp_dim) == (32, 16, 96)
    assert config.joint_attention_dim == 48  # two layers of width 24
    assert not config.guidance_embeds


def test_a_model_is_made_of_the_seed():
    first, second = create_model(MODEL, 1), create_model(MODEL, 1)
    name = "x_embedder.weight"
    assert torch.equal(*(m.transformer.state_dict()[name] for m in (first, second)))
    assert create_model({**MODEL, "dtype": "bfloat16"}).transformer.x_embedder.weight.dtype == (
        torch.bfloat16
    )


def test_a_model_is_loaded_from_its_folder(tmp_path):
    made = create_model(MODEL, 1)
    FLUX2.save_denoiser(made, tmp_path / "transformer")
    given = {**MODEL, "pretrained_path": str(tmp_path), "from_scratch": None}
    for model in (given, {**given, "transformer": None}):
        loaded = create_model(model).transformer.state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in made.transformer.state_dict().items())
    with pytest.raises(ValueError, match="num_layers=2"):
        create_model(
            {**given, "transformer": {**MODEL["transformer"], "num_layers": 2}},
        )


def test_the_block_of_the_spec_builds_as_it_stands():
    """Its sizes differ from the released ones; it must build nevertheless."""
    model = {
        "type": "flux2",
        "variant": "dev",
        "transformer": {
            "hidden_size": 3072,
            "num_attention_heads": 24,
            "num_layers": 8,
            "num_single_layers": 48,
            "in_channels": 128,
            "qk_norm": True,
            "guidance_embeds": True,
        },
        "vae": {"latent_channels": 32, "scaling_factor": 0.3611, "shift_factor": 0.1159},
    }
    config = FLUX2.transformer_config(model)
    assert (config.dim, config.attention_head_dim, config.joint_attention_dim) == (3072, 128, 15360)
    assert FLUX2.autoencoder_config(model)["latent_channels"] == 32
    assert FLUX2.model_index(model)["_class_name"] == "Flux2Pipeline"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**MODEL, "type": "flux3"}, r"model\.type: 'flux3'"),
        (changed(qk_norm=False), "qk_norm"),
        (changed(hidden_size=33), "hidden_size 33 does not divide"),
        (changed(hidden_size=36), "must sum to the width of a head, 18"),
        (changed(in_channels=16), "in_channels 16 must be 4"),
        (changed(vector_dim=4), r"unknown are \['vector_dim'\]"),
        (changed(num_layers=None), r"model\.transformer: missing are \['num_layers'\]"),
        ({**MODEL, "text_encoder": None, "variant": "klein"}, r"model\.variant 'klein'"),
    ],
)
def test_contradictions_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        create_model(model)


def test_a_text_encoder_needs_its_sizes():
    with pytest.raises(ValueError, match=r"model\.text_encoder\.qwen3: missing are \['head_dim'"):
        FLUX2.text_encoder_config({**MODEL, "text_encoder": None})


def test_components_say_what_the_parameters_say():
    text = FLUX2.text_encoder_config(MODEL)
    assert (text["num_hidden_layers"], text["vocab_size"]) == (3, 300)
    assert text["diffbase"] == {"output_layers": [1, 3]}
    assert "max_length" not in text  # the tokenizer's folder says it
    vae = FLUX2.autoencoder_config(MODEL)
    assert vae["block_out_channels"] == [4, 8]
    assert len(vae["up_block_types"]) == 2
    assert FLUX2.model_index(MODEL)["is_distilled"] is False
    assert family("flux2") is FLUX2
