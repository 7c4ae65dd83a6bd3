"""From the section `model` of params.yaml to a model, of every family."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from modelzoo.checkpoints.convert import convert
from modelzoo.create import create_model
from modelzoo.denoiser import Denoiser, save_denoiser
from modelzoo.families import FAMILIES, family
from tests import toys

MODELS = {name: {"type": name, "vae": toys.VAE, **model} for name, model in toys.MODELS.items()}
ROWS = {  # of the toys' text encoders, and what SDXL is told of a picture
    "sdxl": {"context": (2, 12, 32), "pooled": (2, 16), "sizes": (2, 6)},
    "flux": {"context": (2, 10, 32), "pooled": (2, 16)},
    "flux2": {"context": (2, 9, 48)},
    "sd3": {"context": (2, 22, 32), "pooled": (2, 32)},
}
NEEDED = {name: sorted(rows) for name, rows in ROWS.items()}
LATENTS = {"sdxl": (2, 4, 4, 8), "flux": (2, 4, 4, 8), "flux2": (2, 16, 2, 4), "sd3": (2, 4, 4, 8)}
every_family = pytest.mark.parametrize("name", FAMILIES)


def changed(name: str, **changes: object) -> dict:
    """Change the denoiser's section."""
    folder = FAMILIES[name].folder
    return {**MODELS[name], folder: {**MODELS[name][folder], **changes}}


def awake(denoiser: Denoiser) -> Denoiser:
    """Let every weight count: untrained, the last ones are zero."""
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return denoiser


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@every_family
def test_a_model_is_made_of_the_seed_alone(name):
    first = create_model(MODELS[name], 1)
    torch.manual_seed(5)
    assert equal(first.network, create_model(MODELS[name], 1).network)
    assert not equal(first.network, create_model(MODELS[name], 2).network)


@every_family
def test_a_model_has_the_dtype_asked_for(name):
    assert create_model({**MODELS[name], "dtype": "bfloat16"}).dtype == torch.bfloat16


@every_family
def test_a_prediction_depends_on_every_row_of_the_conditioning(name):
    """With nothing but rows and latents of the right shapes, as the engine gives them."""
    denoiser = awake(create_model(MODELS[name]))
    rows = {row: torch.randn(shape) for row, shape in ROWS[name].items()}
    noisy, t = torch.randn(LATENTS[name]), torch.tensor([0.2, 0.7])
    with torch.inference_mode():
        before = denoiser.predict(noisy, t, denoiser.conditioning(rows))
        assert before.shape == noisy.shape
        assert denoiser.num_tokens(*noisy.shape[-2:]) == (32 if name == "sdxl" else 8)
        for row in rows:
            other = denoiser.conditioning({**rows, row: rows[row] + 1})
            assert (denoiser.predict(noisy, t, other) - before).abs().max() > 1e-5, row


@every_family
def test_a_row_that_is_missing_is_named(name):
    denoiser = create_model(MODELS[name])
    for absent in NEEDED[name]:
        rows = {row: torch.zeros(shape) for row, shape in ROWS[name].items() if row != absent}
        with pytest.raises(ValueError, match=absent):
            denoiser.conditioning(rows)


@every_family
def test_rows_of_other_families_are_let_pass(name):
    """The engine gives all of them to every family."""
    rows = {row: torch.zeros(shape) for row, shape in ROWS[name].items()}
    create_model(MODELS[name]).conditioning({**rows, "sizes": torch.zeros(2, 6)})


@every_family
def test_every_parameter_of_the_blocks_is_one_of_the_network_once(name):
    denoiser = create_model(MODELS[name])
    owned = [id(p) for block in denoiser.blocks() for p in block.parameters()]
    assert len(owned) == len(set(owned)) > 0
    assert set(owned) < {id(p) for p in denoiser.network.parameters()}


@every_family
def test_a_model_is_loaded_from_its_folder(name, tmp_path):
    made, folder = create_model(MODELS[name], 1), FAMILIES[name].folder
    save_denoiser(made, tmp_path / folder)
    given = {**MODELS[name], "pretrained_path": str(tmp_path)}
    for model in (given, {**given, folder: None}):
        assert equal(create_model(model).network, made.network)


@every_family
def test_a_model_is_loaded_from_a_single_file(name, tmp_path):
    made, folder = create_model(MODELS[name], 1), FAMILIES[name].folder
    save_denoiser(made, tmp_path / folder)
    file = tmp_path / "model.safetensors"
    convert(tmp_path / folder, file, "comfy", name)
    given = {**MODELS[name], folder: None, "pretrained_path": str(file)}
    loaded = create_model(given)
    assert type(loaded) is FAMILIES[name].denoiser
    assert equal(loaded.network, made.network)


@pytest.mark.parametrize("name", ["flux", "flux2", "sd3"])
def test_sizes_that_the_weights_do_not_have_are_refused(name, tmp_path):
    save_denoiser(create_model(MODELS[name]), tmp_path / "transformer")
    with pytest.raises(ValueError, match=r"num_layers=3.*make them equal, or leave"):
        create_model({**changed(name, num_layers=3), "pretrained_path": str(tmp_path)})


@every_family
def test_a_family_names_the_classes_that_its_own_configurations_bear(name):
    kind, model = FAMILIES[name], {**MODELS[name], "from_scratch": {"vocab_size": 600}}
    assert kind.network_config(model).to_dict()["_class_name"] == kind.denoiser.NETWORK.__name__
    index = kind.model_index(model)
    assert index["_class_name"] in kind.pipelines
    assert index[kind.folder] == ["diffusers", kind.denoiser.NETWORK.__name__]
    assert index["vae"] == ["diffusers", kind.autoencoder_config(model)["_class_name"]]
    assert index["scheduler"] == ["diffusers", kind.scheduler_config(model)["_class_name"]]
    assert family(name) is kind


@every_family
def test_the_network_takes_the_arguments_that_the_specification_names(name):
    taken = inspect.signature(FAMILIES[name].denoiser.NETWORK.forward).parameters
    assert {"hidden_states", "encoder_hidden_states", "timestep"} <= taken.keys()
    assert ("pooled_projections" in taken) == (name != "flux2")
    assert ("img_ids" in taken) == name.startswith("flux")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**MODELS["flux2"], "type": "flux3"}, r"model\.type: 'flux3'"),
        (changed("flux2", qk_norm=False), "qk_norm"),
        (changed("flux2", hidden_size=17), "hidden_size 17 does not divide"),
        (changed("flux2", hidden_size=20), "must sum to the width of a head, 10"),
        (changed("flux2", in_channels=8), "in_channels 8 must be 4"),
        (changed("flux2", vector_dim=4), r"unknown are \['vector_dim'\]"),
        (changed("flux2", num_layers=None), r"model\.transformer: missing are \['num_layers'\]"),
        ({**MODELS["flux2"], "text_encoder": None, "variant": "klein"}, r"model\.variant 'klein'"),
        (changed("flux", in_channels=8), "in_channels 8 must be 4"),
        (changed("sd3", guidance_embeds=True), "guidance_embeds: True is not possible"),
        (changed("sdxl", in_channels=8), r"in_channels 8 must be model\.vae\.latent_channels 4"),
        (changed("sdxl", context_dim=8), "context_dim 8 must be the hidden_size of clip_l plus"),
    ],
)
def test_contradictions_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        create_model(model)
