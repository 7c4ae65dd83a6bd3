"""Files in published layouts are those that BFL, Stability and ComfyUI publish, both ways."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelzoo.checkpoints.layouts.places import WRITTEN
from modelzoo.checkpoints.layouts.table import to_diffusers, to_published
from modelzoo.checkpoints.single_file import Component, open_single_file, save_single_file
from modelzoo.checkpoints.stream import MemorySource
from tests.parity.published_networks import FULL_SIZE, TINY, Network, flux1, tensors

PUBLISHED = Path(__file__).parent / "published"  # one line a pattern: name, shape, how many
IN_FILES = [
    (name, layout)
    for name, network in TINY.items()
    for layout, families in WRITTEN.items()
    if network.component in [place.component for place in families.get(network.family, ())]
]


def source(state: Mapping[str, Tensor]) -> MemorySource:
    return MemorySource(state, "memory", "diffusers")


def assert_same(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert given.keys() == wanted.keys()
    assert [k for k in wanted if not torch.equal(given[k], wanted[k])] == []


def config_of(network: Network) -> dict[str, Any]:
    with torch.device("meta"):
        module = network.make()
    if isinstance(module.config, transformers.PretrainedConfig):
        return as_json({**module.config.to_dict(), "architectures": [type(module).__name__]})
    return as_json({**module.config, "_class_name": type(module).__name__})


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config))


def rebuilt_shapes(config: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Build the network that a config.json describes, as diffusers or transformers would."""
    with torch.device("meta"):
        if "_class_name" in config:
            module = getattr(diffusers, config["_class_name"]).from_config(dict(config))
        else:
            cls = getattr(transformers, config["architectures"][0])
            module = cls(cls.config_class.from_dict(dict(config)))
    shapes = {k: v.shape for k, v in module.state_dict().items()}
    shapes.pop("encoder.embed_tokens.weight", None)  # the same tensor as T5's shared.weight
    return shapes


@pytest.mark.parametrize("name", [file.stem for file in sorted(PUBLISHED.iterdir())])
def test_names_and_shapes_are_those_of_the_published_file(name):
    wanted = Counter()
    for line in (PUBLISHED / f"{name}.txt").read_text().splitlines():
        pattern, shape, number = line.split()
        key = pattern.removeprefix("model.diffusion_model."), shape
        wanted[key] += int(number.removeprefix("n="))
    network, _ = FULL_SIZE[name]
    with torch.device("meta"):
        published = to_published(source(network.make().state_dict()), network.layout)
    assert wanted == Counter(
        (re.sub(r"(?<=blocks\.)\d+", "{i}", key), "x".join(map(str, info.shape)))
        for key, info in published.infos.items()
    )


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_networks_convert_both_ways_and_show_their_sizes(name):
    network, number = FULL_SIZE[name]
    with torch.device("meta"):
        module = network.make()
    ours = source(module.state_dict())
    published = to_published(ours, network.layout)
    back = to_diffusers(published, network.layout)
    assert len(published) == number
    assert back.infos == ours.infos
    config = network.layout.config(back.infos)
    assert rebuilt_shapes(config) == {k: i.shape for k, i in ours.infos.items()}
    if network.component in ("transformer", "unet"):  # the others have scales and token ids
        theirs = config_of(network)
        assert config == {k: v for k, v in theirs.items() if k in config}


@pytest.mark.parametrize("name", TINY)
def test_round_trips_are_bit_exact(name):
    state, layout = tensors(name), TINY[name].layout
    published = to_published(source(state), layout)
    back = to_diffusers(published, layout)
    assert_same(back, state)
    assert_same(to_published(back, layout), published)


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


def convert_unet(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    prefixed = {f"model.diffusion_model.{k}": v for k, v in published.items()}
    return single_file_utils.convert_ldm_unet_checkpoint(prefixed, config_of(network))


def convert_vae(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    return single_file_utils.convert_ldm_vae_checkpoint(published, config_of(network))


def convert_sd3(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    return single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(published)


def convert_flux2(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    return single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers(published)


def convert_open_clip(published: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    return single_file_utils.convert_open_clip_checkpoint(network.make(), published, prefix="")


CONVERTERS = {  # of diffusers, the oracle for values; FLUX.1's is below
    "flux2": convert_flux2,
    "flux2-klein": convert_flux2,
    "sd3": convert_sd3,
    "sd3-dual": convert_sd3,
    "sdxl": convert_unet,
    "sdxl-vae": convert_vae,
    "flux1-vae": convert_vae,
    "open-clip": convert_open_clip,
}


@pytest.mark.parametrize("name", CONVERTERS)
def test_diffusers_converts_what_we_publish_to_the_same_tensors(name):
    network = TINY[name]
    state = tensors(name)
    published = {k: v.clone() for k, v in to_published(source(state), network.layout).items()}
    assert_same(CONVERTERS[name](published, network), state)


def test_diffusers_converts_what_we_publish_of_flux1_at_the_width_it_knows():
    """Rows are numbered, and columns are views of one, so that no memory is needed."""
    network = flux1(num_layers=1, num_single_layers=1, guidance_embeds=True)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in network.make().state_dict().items()}
    state = {
        name: (torch.arange(float(shape[0])) + 1e5 * i)
        .view(-1, *[1] * (len(shape) - 1))
        .expand(shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    published = dict(to_published(source(state), network.layout))
    assert_same(
        single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(published), state
    )
