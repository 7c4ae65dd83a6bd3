"""Single files are recognised, whoever wrote them, and diffusers reads ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelzoo.checkpoints.folder import write_json
from modelzoo.checkpoints.layouts.places import WRITTEN
from modelzoo.checkpoints.single_file import Component, open_single_file, save_single_file
from tests.parity.published_networks import (
    TINY,
    assert_same,
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
    components = {network.component: Component(config, source(state))}
    save_single_file(components, path, layout, network.family)
    opened = open_single_file(path)
    assert opened.components[network.component].config == config
    assert_same(opened.components[network.component].source, state)
    assert opened.layouts == {network.component: network.layout.name}


@pytest.mark.parametrize(("name", "layout"), IN_FILES)
def test_sizes_are_read_from_the_shapes_of_files_of_others(name, layout, tmp_path):
    network, path = TINY[name], tmp_path / "model.safetensors"
    state = tensors(name)
    components = {network.component: Component(config_of(network), source(state))}
    save_single_file(components, path, layout, network.family)
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
    network, path, config = TINY[name], tmp_path / "model.safetensors", config_of(TINY[name])
    components = {network.component: Component(config, source(tensors(name)))}
    save_single_file(components, path, layout, network.family)
    module = load_by_diffusers(path, config, torch.float16)
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
