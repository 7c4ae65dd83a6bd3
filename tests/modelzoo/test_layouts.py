"""Tables of names: both directions, one tensor at a time, and nothing unknown."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelzoo.checkpoints.layouts.table import (
    CONV_TO_LINEAR,
    SWAP_HALVES,
    TRANSPOSE,
    Layout,
    count,
    drop,
    heads_and_rest,
    rename,
    split,
    to_diffusers,
    to_published,
)
from modelzoo.checkpoints.stream import DTYPES, MemorySource
from modelzoo.checkpoints.write import write_safetensors

TOY = Layout(
    name="toy",
    signs=("first.weight",),
    diffusers_sign="conv_in.weight",
    rows=lambda infos: [
        rename("first.*", "conv_in.*"),
        rename("blocks.{}.mod", "layers.{}.norm.weight", SWAP_HALVES),
        split(
            "blocks.{}.fused.*",
            [f"layers.{{}}.{name}.*" for name in ("q", "k", "v", "mlp")],
            heads_and_rest(2),
        ),
        rename("blocks.{}.norm.scale", "layers.{}.norm_q.weight"),
        rename("blocks.{}.norm.weight", "layers.{}.norm_q.weight"),
        rename("conv", "linear", CONV_TO_LINEAR),
        rename("matrix", "matrix.weight", TRANSPOSE),
        drop("table"),
    ],
    config=lambda infos: {},
)
PUBLISHED = {
    "first.weight": torch.tensor([1.0, 2.0]),
    "blocks.0.mod": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "blocks.0.fused.weight": torch.arange(27.0).view(9, 3),
    "blocks.0.fused.bias": torch.arange(9.0),
    "blocks.0.norm.scale": torch.tensor([5.0]),
    "blocks.11.norm.scale": torch.tensor([6.0]),
    "conv": torch.arange(6.0).view(2, 3, 1, 1),
    "matrix": torch.arange(6.0).view(2, 3),
}


class Watched(MemorySource):
    """A source that remembers what was loaded."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors, "model.safetensors", "toy")
        self.loaded: list[str] = []

    def load(self, name: str) -> Tensor:
        self.loaded.append(name)
        return super().load(name)


def test_a_published_tensor_is_renamed_cut_swapped_turned_and_flattened():
    ours = to_diffusers(Watched(PUBLISHED), TOY)
    assert ours["conv_in.weight"].tolist() == [1, 2]
    assert ours["layers.0.norm.weight"].tolist() == [3, 4, 1, 2]
    assert [ours[f"layers.0.{n}.bias"].tolist() for n in "qkv"] == [[0, 1], [2, 3], [4, 5]]
    assert ours["layers.0.mlp.bias"].tolist() == [6, 7, 8]
    assert ours["layers.0.mlp.weight"].tolist() == PUBLISHED["blocks.0.fused.weight"][6:].tolist()
    assert ours["layers.11.norm_q.weight"].tolist() == [6]
    assert ours["linear"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert ours["matrix.weight"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_one_table_gives_both_directions():
    back = to_published(to_diffusers(Watched(PUBLISHED), TOY), TOY)
    assert back.keys() == PUBLISHED.keys()
    assert all(torch.equal(back[k], v) for k, v in PUBLISHED.items())


def test_shapes_and_dtypes_are_known_before_anything_is_loaded():
    source = Watched({k: v.bfloat16() for k, v in PUBLISHED.items()})
    published = to_published(to_diffusers(source, TOY), TOY)
    assert source.loaded == []
    assert {k: (i.shape, i.dtype) for k, i in published.infos.items()} == {
        k: (tuple(v.shape), torch.bfloat16) for k, v in PUBLISHED.items()
    }


def test_only_the_tensors_asked_for_are_loaded_and_a_part_is_no_copy():
    source = Watched(PUBLISHED)
    part = to_diffusers(source, TOY)["layers.0.k.weight"]
    assert source.loaded == ["blocks.0.fused.weight"]
    assert part.untyped_storage().data_ptr() == PUBLISHED[source.loaded[0]].data_ptr()


def test_an_older_name_is_read_and_the_newer_written():
    older = {"first.weight": PUBLISHED["first.weight"], "blocks.0.norm.weight": torch.zeros(1)}
    ours = to_diffusers(Watched(older), TOY)
    assert set(ours) == {"conv_in.weight", "layers.0.norm_q.weight"}
    assert set(to_published(ours, TOY)) == {"first.weight", "blocks.0.norm.scale"}


def test_what_nothing_reads_is_dropped():
    assert "table" not in to_diffusers(Watched({**PUBLISHED, "table": torch.zeros(1)}), TOY)


def test_unknown_names_are_listed_in_both_directions():
    surplus = {f"x.{i:02}": torch.zeros(1) for i in range(12)}
    for convert in (to_diffusers, to_published):
        with pytest.raises(ValueError, match=r"model\.safetensors: the toy layout has no") as error:
            convert(Watched(surplus), TOY)
        assert "x.09" in str(error.value)
        assert "x.10" not in str(error.value)
        assert "12 such tensors" in str(error.value)


def test_a_name_given_twice_is_refused():
    twice = {**PUBLISHED, "blocks.0.norm.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"both stand for 'layers\.0\.norm_q\.weight'"):
        to_diffusers(Watched(twice), TOY)


def test_a_fused_tensor_is_not_made_of_some_of_its_parts():
    ours = dict(to_diffusers(Watched(PUBLISHED), TOY))
    del ours["layers.0.k.bias"]
    with pytest.raises(ValueError, match=r"blocks\.0\.fused\.bias.* cannot be made"):
        to_published(Watched(ours), TOY)


def test_members_of_a_list_are_counted_under_either_name():
    assert count(dict.fromkeys(["a.0.x", "a.10.x", "ba.12.x"]), "a.", "c.") == 11
    assert count(dict.fromkeys(["c.0.x", "c.1.x"]), "a.", "c.") == 2
    assert count({}, "a.") == 0


def test_written_files_have_the_bytes_of_the_safetensors_library(tmp_path):
    tensors = {
        f"{part}.{name}": torch.arange(6).view(2, 3).to(dtype)
        for name, dtype in DTYPES.items()
        for part in ("b", "a")
    }
    tensors |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 3), "é": torch.ones(3).half()}
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "folder" / "ours.safetensors"
    save_file(tensors, theirs, metadata={"format": "pt"})
    write_safetensors(Watched(tensors), ours, {"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_file_appears_when_it_is_complete(tmp_path):
    class Broken(Watched):
        def load(self, name: str) -> Tensor:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        write_safetensors(Broken(PUBLISHED), tmp_path / "model.safetensors", {})
    assert not (tmp_path / "model.safetensors").exists()
    write_safetensors(to_diffusers(Watched(PUBLISHED), TOY), tmp_path / "model.safetensors", {})
    assert load_file(tmp_path / "model.safetensors")["matrix.weight"].shape == (3, 2)
