"""A packed base: how near it is, what it takes, and that gradients pass through it unharmed."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modelzoo.adapters.adapter import Adapter, adapter_parameters, add_adapters, merge_adapters
from modelzoo.checkpoints.folder import load_component
from modelzoo.denoiser import load_denoiser, save_denoiser
from modelzoo.families import FAMILIES
from modelzoo.quantised import load
from modelzoo.quantised.kinds import KINDS
from modelzoo.quantised.linear import QuantisedLinear
from modelzoo.quantised.load import load_quantised, quantisable
from tests.modelzoo.test_adapters import base, predict

FARTHEST = {"int8": 0.01, "fp8": 0.03, "nf4": 0.1}  # relative, of a layer's output
BITS = {"int8": 8.2, "fp8": 8.2, "nf4": 4.5}  # a weight of a layer 256 wide, with its scales


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, QuantisedLinear]:
    whole = nn.Linear(256, 96).to(dtype).requires_grad_(False)
    whole.weight.copy_(random(96, 256) * torch.logspace(-3, 1, 96).unsqueeze(1))
    packed = QuantisedLinear(whole, kind)
    packed.take(whole.weight)
    return whole, packed


def unpacked(packed: QuantisedLinear) -> nn.Linear:
    plain = nn.Linear(packed.in_features, packed.out_features).requires_grad_(False)
    plain.weight, plain.bias = nn.Parameter(packed.weight, requires_grad=False), packed.bias
    return plain


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_layer_is_near_the_whole_one_and_small(kind: str) -> None:
    whole, packed = layer(kind)
    x = random(32, 256, seed=1)
    rows = (whole(x) - packed(x)).norm(dim=0) / (whole(x) - whole.bias).norm(dim=0)
    assert rows.max() < 1.5 * FARTHEST[kind]  # whatever a row's size
    assert rows.square().mean().sqrt() < FARTHEST[kind]
    taken = sum(buffer.nbytes for buffer in packed.buffers())
    assert 8 * taken / whole.weight.numel() <= BITS[kind]
    assert [name for name, _ in packed.named_parameters()] == ["bias"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_and_conversions_of_the_module_do_no_harm(kind: str) -> None:
    whole = nn.Linear(64, 4).requires_grad_(False)
    whole.weight.zero_()
    whole.weight[1] = random(64)
    packed = QuantisedLinear(whole, kind)
    packed.take(whole.weight)
    assert torch.equal(packed.weight[[0, 2, 3]], torch.zeros(3, 64))
    values = packed.values.clone()
    assert torch.equal(packed.to(torch.bfloat16).values, values)


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"kind": "lokr"}, {"kind": "loha"}])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapters_gradient_is_that_through_the_unpacked_layer(kind: str, changes: dict) -> None:
    _, packed = layer(kind)
    found = []
    for one in (packed, unpacked(packed)):
        network = nn.ModuleDict({"first": nn.Linear(8, 256), "second": one})
        with torch.no_grad():
            network["first"].weight.copy_(random(256, 8, seed=2))
            network["first"].bias.zero_()
        add_adapters(network, Adapter(rank=4, **changes), ["first", "second"], 0)
        with torch.no_grad():
            for number, parameter in enumerate(adapter_parameters(network).values()):
                parameter += 0.1 * random(*parameter.shape, seed=number)
        out = network["second"](network["first"](random(2, 5, 8, seed=3)))
        out.square().mean().backward()
        found.append({name: p.grad for name, p in adapter_parameters(network).items()})
    through_packed, through_plain = found
    for name, grad in through_plain.items():
        assert grad.any()
        torch.testing.assert_close(through_packed[name], grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_bfloat16_compute_as_the_unpacked_layer_does(kind: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        _, packed = layer(kind, dtype)
        plain, found = unpacked(packed), []
        for one in (packed, plain):
            x = random(4, 256, seed=1).to(dtype).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
                out = one(x)
            out.float().square().sum().backward()
            found.append((out, x.grad))
        (out, grad), (wanted, wanted_grad) = found
        assert out.dtype == torch.bfloat16
        assert grad.dtype == dtype
        assert torch.equal(out, wanted)
        assert torch.equal(grad, wanted_grad)


@pytest.mark.parametrize("kind", KINDS)
def test_no_unpacked_weight_waits_for_the_backward_pass(kind: str) -> None:
    _, packed = layer(kind)
    kept: list[Tensor] = []
    x = random(1, 256).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        packed(x)
    assert {tensor.data_ptr() for tensor in kept} == {b.data_ptr() for b in packed.buffers()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_base_computes_with_packed_blocks_and_whole_ends(
    family: str, tmp_path: Path
) -> None:
    whole = base(family)
    save_denoiser(whole, tmp_path)
    expected = predict(whole, family)
    chosen = quantisable(whole)
    ends = {n for n, m in whole.network.named_modules() if isinstance(m, nn.Linear)} - {*chosen}
    assert {name.split(".")[0] for name in ends} == OUTSIDE[family]
    for kind, farthest in (("int8", 0.02), ("fp8", 0.1), ("nf4", 0.6)):
        packed = load_quantised(type(whole), tmp_path, torch.float32, kind)
        left = load_denoiser(type(whole), tmp_path)
        for name, layer in quantisable(left).items():
            layer.weight.data = packed.network.get_submodule(name).weight
        prediction = predict(packed, family)
        assert torch.equal(prediction, predict(left, family))
        off = float((prediction - expected).norm() / expected.norm())
        assert 0 < off < farthest
        kept = {name: p for name, p in packed.network.named_parameters()}
        assert all(
            torch.equal(p, dict(whole.network.named_parameters())[n]) for n, p in kept.items()
        )


OUTSIDE = {  # what holds linear layers outside the blocks
    "sdxl": {"time_embedding", "add_embedding", "down_blocks", "mid_block", "up_blocks"},
    "flux": {"time_text_embed", "x_embedder", "context_embedder", "norm_out", "proj_out"},
    "flux2": {"time_guidance_embed", "x_embedder", "context_embedder", "norm_out", "proj_out"}
    | {"double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"},
    "sd3": {"time_text_embed", "context_embedder", "norm_out", "proj_out"},
}


def test_loading_holds_one_whole_weight_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_denoiser(base("flux2"), tmp_path)
    read: list[weakref.ref[Tensor]] = []

    class Watched:
        def __init__(self, source):
            self.source, self.infos = source, source.infos
            self.where, self.layout = source.where, source.layout

        def __iter__(self):
            return iter(self.source)

        def __getitem__(self, name):
            assert not [ref for ref in read if ref() is not None], f"{name} is read beside another"
            tensor = self.source[name]
            read.append(weakref.ref(tensor))
            return tensor

    def watched(folder: Path):
        config, source = load_component(folder)
        return config, Watched(source)

    monkeypatch.setattr(load, "load_component", watched)
    network = load_quantised(FAMILIES["flux2"].denoiser, tmp_path, torch.bfloat16, "int8").network
    assert len(read) == len(
        load_denoiser(FAMILIES["flux2"].denoiser, tmp_path).network.state_dict()
    )
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}


def test_merging_into_a_packed_base_is_refused() -> None:
    network = nn.ModuleDict({"a": layer("int8")[1]})
    add_adapters(network, Adapter(rank=2), ["a"], 0)
    with pytest.raises(ValueError, match="a is quantised: merge adapters into the whole weights"):
        merge_adapters(network)


def test_weights_that_do_not_fit_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    save_denoiser(base("flux2"), tmp_path)
    other = FAMILIES["sd3"].denoiser
    with pytest.raises(ValueError, match=r"config\.json names class 'Flux2Transformer2DModel'"):
        load_quantised(other, tmp_path, torch.float32, "int8")
