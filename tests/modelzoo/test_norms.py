"""The norm of heads is torch's RMS norm, only faster on a CPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from modelzoo.layers.norms import HeadNorm


def a_norm() -> HeadNorm:
    norm = HeadNorm(16)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(16))
    return norm


def with_gradients(function, *inputs: torch.Tensor) -> list[torch.Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype))
    return [out, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("layout", ["whole", "a slice", "transposed"])
def test_it_equals_the_norm_of_torch_and_so_do_its_gradients(layout):
    heads = {
        "whole": torch.randn(2, 5, 3, 16),
        "a slice": torch.randn(2, 5, 3, 48)[..., 16:32],
        "transposed": torch.randn(2, 3, 5, 16).transpose(1, 2),
    }[layout]
    norm = a_norm()
    ours = with_gradients(norm, heads)
    ours.append(norm.weight.grad)
    expected = with_gradients(lambda x, w: F.rms_norm(x, [16], w, 1e-6), heads, norm.weight)
    for found, right in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, right)


def test_small_heads_are_not_blown_up():
    """eps bounds the factor: 1e-3 is the root of 1e-6."""
    norm = a_norm()
    heads = 1e-4 * torch.randn(1, 1, 1, 16)
    torch.testing.assert_close(norm(heads), F.rms_norm(heads, [16], norm.weight, 1e-6))
    assert not norm(torch.zeros(1, 1, 1, 16)).any()
    zero = torch.zeros(1, 1, 1, 16, requires_grad=True)
    norm(zero).sum().backward()
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_rounded_once(dtype):
    norm = a_norm().to(dtype)
    heads = torch.randn(2, 5, 3, 16).to(dtype)
    exact = F.rms_norm(heads.float(), [16], norm.weight.float(), 1e-6)
    assert torch.equal(norm(heads), exact.to(dtype))
    _, grad = with_gradients(norm, heads)
    assert grad.dtype == norm.weight.grad.dtype == dtype


def test_heads_keep_their_dtype_under_a_weight_in_float32():
    """As under autocast: query and key then have the dtype of the value."""
    heads = torch.randn(2, 5, 3, 16, dtype=torch.bfloat16)
    assert a_norm()(heads).dtype == torch.bfloat16


def test_no_token_gives_no_gradient():
    norm = a_norm()
    _, grad = with_gradients(norm, torch.randn(2, 0, 3, 16))
    assert grad.shape == (2, 0, 3, 16)
    assert not norm.weight.grad.any()


def test_it_compiles_into_one_graph():
    norm = a_norm()
    heads = torch.randn(2, 5, 3, 16)
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    for found, right in zip(
        with_gradients(compiled, heads), with_gradients(norm, heads), strict=True
    ):
        torch.testing.assert_close(found, right)
