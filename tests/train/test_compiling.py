"""Compiled blocks: the losses and gradients of eager ones, no graph breaks, fixed shapes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from stages.train import compiling
from stages.train.model import Model
from stages.train.stage import create_trainer, weights_fingerprint
from tests.train.test_lora import awake

LORA = {"method": "lora", "ema": None, "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.2}}
METHODS = {"lora": LORA, "controlnet": {"method": "controlnet"}}


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch):
    """Trace and differentiate as `inductor` does, but generate no code: that takes a compiler."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("method", METHODS)
def test_compiled_blocks_have_the_losses_and_gradients_of_eager_ones(make_workspace, method):
    workspace = awake(make_workspace(num_images=6, num_validation=1, has_conditions=True))
    if method != "controlnet":
        workspace.write_latents([row for row in workspace.latents() if row["role"] == "target"])
    eager = replace(workspace.params(**METHODS[method]), gradient_checkpointing=True)
    found = []
    for params in (eager, replace(eager, compile=True)):
        trainer = create_trainer(params)
        state = trainer.state
        losses = trainer.method.losses(state.model, trainer.batches.at(0)[0])
        state.backward(losses.sum())
        gradients = [p.grad for p in state.trainable.values() if p.grad is not None]
        found.append([losses.detach(), *gradients])
    assert len(found[0]) == len(found[1]) > 5
    assert sum(gradient.any() for gradient in found[0][1:]) >= 2
    for expected, given in zip(*found, strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    blocks = compiling.blocks_of(state.model)
    assert (len(blocks) > len(state.model.denoiser.blocks())) == (method == "controlnet")


class Block(nn.Module):
    """A kind of block."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


def test_code_is_for_one_shape_whatever_came_before_and_shared_by_blocks_of_a_kind(monkeypatch):
    compiled = []

    def note(graph, inputs):
        compiled.append([tuple(each.shape) for each in inputs if each.ndim == 3])
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", note)
    blocks = [Block(), Block(), Block()]
    model = Model(SimpleNamespace(blocks=lambda: blocks))  # type: ignore[arg-type]
    compiling.compile_blocks(model, torch.device("cpu"))
    sizes = range(2, 14)  # torch would run the ninth eagerly
    for size in (*sizes, *sizes):
        x = torch.zeros(1, size, 3, requires_grad=True)
        for block in blocks:
            x = block(x)
    assert compiled == [[(1, size, 3)] for size in sizes]
    with compiling.eagerly(is_compiled=True):
        blocks[0](torch.zeros(1, 99, 3))
    assert len(compiled) == len(sizes)


def test_it_is_another_training(workspace):
    params = workspace.params()
    assert weights_fingerprint(params) != weights_fingerprint(replace(params, compile=True))


def test_without_a_compiler_it_is_one_sentence(workspace, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    from torch._inductor import config  # heavy

    nowhere = config.patch({"cpp.cxx": (None, "no-such-compiler")})
    said = r"hardware.compile is true, but .* C\+\+ compiler .* set"
    with nowhere, pytest.raises(ValueError, match=said):
        create_trainer(replace(workspace.params(), compile=True))
