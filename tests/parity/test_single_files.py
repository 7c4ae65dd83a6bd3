"""Single files are recognised, whoever wrote them, and diffusers reads ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelzoo.autoencoders import autoencoder_from
from modelzoo.checkpoints.folder import load_strict, write_json
from modelzoo.checkpoints.layouts.places import WRITTEN
from modelzoo.checkpoints.single_file import Component, open_single_file, save_single_file
from modelzoo.flux.v1.model import Flux1
from modelzoo.flux.v2.model import Flux2
from modelzoo.sd3.model import SD3
from modelzoo.sdxl.model import SDXL
from modelzoo.text_encoders.family import ENCODERS
from modelzoo.text_encoders.text_encoder import build_part
from tests.parity.published_networks import (
    TINY,
    assert_same,
    component,
    config_of,
    flux1,
    rebuilt_shapes,
    source,
    tensors,
)

IN_FILES = [
    (name, layout)
    for name, network in TINY.items()
    for layout, families in WRITTEN.items()
    if network.component in [place.component for place in families.get(network.family, ())]
]


@pytest.mark.parametrize(("name", "layout"), IN_FILES)
def test_a_file_is_recognised_and_gives_back_what_was_written(name, layout, tmp_path):
    network, path = TINY[name], tmp_path / "model.safetensors"
    state, config = tensors(name), config_of(network)
    save_single_file({network.component: component(name)}, path, layout, network.family)
    opened = open_single_file(path)
    assert opened.components[network.component].config == config
    assert_same(opened.components[network.component].source, state)
    assert opened.layouts == {network.component: network.layout.name}


@pytest.mark.parametrize(("name", "layout"), IN_FILES)
def test_sizes_are_read_from_the_shapes_of_files_of_others(name, layout, tmp_path):
    network, path = TINY[name], tmp_path / "model.safetensors"
    state = tensors(name)
    save_single_file({network.component: component(name)}, path, layout, network.family)
    save_file(load_file(path), path)  # without the sizes in the header
    config = open_single_file(path, network.family).components[network.component].config
    assert rebuilt_shapes(config) == {k: v.shape for k, v in state.items()}
    theirs = config_of(network)
    for key in ("scaling_factor", "shift_factor", "guidance_embeds", "dual_attention_layers"):
        assert config.get(key) == theirs.get(key)


def load_by_diffusers(path: Path, config: dict[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    folder = path.parent / "config"
    (folder / "network").mkdir(parents=True)
    write_json(config, folder / "network" / "config.json")
    return getattr(diffusers, config["_class_name"]).from_single_file(
        str(path),
        config=str(folder),
        subfolder="network",
        torch_dtype=dtype,
        local_files_only=True,
    )


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("flux2", "bfl"),
        ("flux2-klein", "bfl"),
        ("sd3", "stability"),
        ("sd3-dual", "stability"),
        ("sdxl", "stability"),
        ("sdxl-vae", "stability"),
        ("flux1-vae", "bfl"),
        ("sd3-vae", "stability"),
    ],
)
def test_diffusers_loads_our_single_files(name, layout, tmp_path):
    path = tmp_path / "model.safetensors"
    save_single_file({TINY[name].component: component(name)}, path, layout, TINY[name].family)
    module = load_by_diffusers(path, config_of(TINY[name]), torch.float16)
    assert_same(module.state_dict(), tensors(name))


def test_diffusers_loads_our_single_files_of_flux1_at_the_width_it_knows(tmp_path):
    """It takes 3072 for granted; rows are numbered, and made when they are written."""
    network = flux1(
        num_layers=1, num_single_layers=1, joint_attention_dim=8, pooled_projection_dim=8
    )
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in network.make().state_dict().items()}
    state = {
        k: torch.arange(shape[0]).half().view(-1, *[1] * (len(shape) - 1)).expand(shape)
        for k, shape in shapes.items()
    }
    path, config = tmp_path / "model.safetensors", config_of(network)
    save_single_file({"transformer": Component(config, source(state))}, path, "bfl", "flux")
    assert_same(load_by_diffusers(path, config, torch.float16).state_dict(), state)
    path.unlink()  # a gigabyte


@pytest.mark.parametrize(
    ("name", "layout", "kind"),
    [
        ("flux1-fill", "bfl", Flux1),
        ("flux2-klein", "comfy", Flux2),
        ("sd3-dual", "stability", SD3),
        ("sdxl", "stability", SDXL),
        ("sdxl-attending-everywhere", "stability", SDXL),
    ],
)
def test_our_networks_load_files_of_others_without_a_config(name, layout, kind, tmp_path):
    path = tmp_path / "model.safetensors"
    save_single_file({TINY[name].component: component(name)}, path, layout, TINY[name].family)
    save_file(load_file(path), path)  # without the sizes in the header
    config, weights = open_single_file(path).components[TINY[name].component]
    with torch.device("meta"):
        network = kind.NETWORK(kind.CONFIG.from_dict(config)).half()
    assert_same(load_strict(network, weights, path).state_dict(), tensors(name))


@pytest.mark.parametrize("name", ["sdxl-vae", "flux1-vae", "sd3-vae", "flux2-vae"])
def test_our_autoencoders_load_files_of_others_without_a_config(name, tmp_path):
    path, family = tmp_path / "ae.safetensors", TINY[name].family
    save_single_file({"vae": component(name)}, path, "comfy", family)
    save_file(load_file(path), path)  # without the sizes in the header
    config, weights = open_single_file(path, family).components["vae"]
    autoencoder = autoencoder_from(config, weights, torch.float16)
    assert_same(autoencoder.state_dict(), tensors(name))
    theirs = config_of(TINY[name])
    for key in ("scaling_factor", "shift_factor"):
        assert getattr(autoencoder.config, key, None) == theirs.get(key)


@pytest.mark.parametrize(
    ("family", "denoiser", "names"),
    [
        ("sdxl", "sdxl", {"clip_l": "clip", "clip_g": "open-clip"}),
        ("flux", "flux1", {"clip_l": "clip", "t5": "t5"}),
        ("sd3", "sd3", {"clip_l": "clip", "clip_g": "open-clip", "t5": "t5"}),
        ("flux2", "flux2", {"qwen3": "qwen3"}),
    ],
)
def test_our_text_encoders_load_files_of_others_without_a_config(family, denoiser, names, tmp_path):
    path = tmp_path / "model.safetensors"
    components = {kind: component(name) for kind, name in names.items()}
    components[TINY[denoiser].component] = component(denoiser)
    save_single_file(components, path, "comfy", family)
    save_file(load_file(path), path)  # without the sizes in the header
    ids = torch.zeros(1, 5, dtype=torch.long)
    for kind in names:
        config, weights = open_single_file(path).components[kind]
        shallow = {**config, "diffbase": {"output_layers": [1, 2]}} if kind == "qwen3" else config
        encoder = build_part(ENCODERS[family][kind], shallow, weights, torch.float32)
        assert all(row.isfinite().all() for row in encoder.encode_rows(ids, ids + 1).values())
