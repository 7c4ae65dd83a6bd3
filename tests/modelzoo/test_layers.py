"""Leaves: attention, rotary positions, embeddings, modulation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.profiler import profile

from modelzoo.layers.attention import attention, attention_backend
from modelzoo.layers.embeddings import sinusoid
from modelzoo.layers.modulation import add_gated, modulate, split_modulation
from modelzoo.layers.rope import rope_table, rotate

CPU = torch.device("cpu")


def test_attention_is_a_softmax_over_keys():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 5, 3, 4).unbind()
    logits = torch.einsum("bnke,bmke->bknm", query, key) / math.sqrt(4)
    expected = torch.einsum("bknm,bmke->bnke", logits.softmax(-1), value).flatten(2)
    torch.testing.assert_close(attention(query, key, value), expected)


@pytest.mark.parametrize("name", ["math", "flash"])
def test_a_backend_gives_the_same_attention_and_no_other_kernel_runs(name):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 5, 3, 4).unbind()
    with attention_backend(name, CPU, torch.float32), profile() as profiler:
        out = attention(query, key, value)
    torch.testing.assert_close(out, attention(query, key, value))
    kernels = {event.key for event in profiler.key_averages()}
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert (flash in kernels) == (name == "flash")


def test_a_backend_that_does_not_exist_or_run_here_is_refused():
    with pytest.raises(ValueError, match=r"'xformers' is unknown.*efficient"):
        attention_backend("xformers", CPU, torch.float32).__enter__()
    with pytest.raises(ValueError, match=r"'cudnn' does not run on cpu in torch\.float32"):
        attention_backend("cudnn", CPU, torch.float32).__enter__()


def test_rotated_products_depend_on_the_difference_of_positions_only():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8).unbind()

    def product(a: list[int], b: list[int]) -> float:
        tables = [rope_table(torch.tensor([position]), (4, 4), 2000) for position in (a, b)]
        return (rotate(query, tables[0]) * rotate(key, tables[1])).sum().item()

    assert abs(product([3, 7], [1, 2]) - product([13, 107], [11, 102])) < 1e-4
    assert abs(product([3, 7], [1, 2]) - product([3, 7], [2, 1])) > 1e-3


def test_rotation_keeps_lengths_and_leaves_the_origin_alone():
    heads = torch.randn(2, 3, 4, 8)
    table = rope_table(torch.tensor([[0, 0], [5, 0], [0, 9]]), (4, 4), 2000)
    rotated = rotate(heads, table)
    torch.testing.assert_close(rotated.norm(dim=-1), heads.norm(dim=-1))
    assert torch.equal(rotated[:, 0], heads[:, 0])
    assert torch.equal(rotated[:, 1, :, 4:], heads[:, 1, :, 4:])  # the second axis is at 0


def test_a_sinusoid_has_cosines_first():
    features = sinusoid(torch.tensor([0.0, 1.0]), 6)
    assert features[0].tolist() == [1, 1, 1, 0, 0, 0]
    frequencies = [1, 10000 ** (-1 / 3), 10000 ** (-2 / 3)]
    expected = [math.cos(f) for f in frequencies] + [math.sin(f) for f in frequencies]
    torch.testing.assert_close(features[1], torch.tensor(expected))


def test_modulations_are_packed_as_shift_scale_gate():
    packed = torch.arange(6.0)[None].repeat_interleave(2, dim=1)  # D = 2, two sets
    first, second = split_modulation(packed, sets=2)
    assert [float(x[0, 0, 0]) for x in first] == [0, 2, 2]  # the factor is 1 + scale
    assert [float(x[0, 0, 0]) for x in second] == [3, 5, 5]
    x = torch.ones(1, 4, 2)
    assert torch.equal(modulate(x, first), 2 * x)
    assert torch.equal(add_gated(x, 10 * x, second), 51 * x)
