"""Frozen weights that come just before their block runs: the same gradients, in the right order.

On a CPU the device is the same; that weights which are away are empty makes a miss an error.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stages.params.resolve import settled
from stages.train import compiling
from stages.train.offload import Offloaded, offload_blocks, spread
from stages.train.stage import create_trainer
from tests.train.test_lora import awake

EXPERIMENTS = Path(__file__).parents[2] / "params/experiments"
CPU = torch.device("cpu")


class Block(nn.Module):
    """A frozen layer with an adapter that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 6).requires_grad_(False)
        self.adapter = nn.Linear(6, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.base(x) + self.adapter(x))


class Watched(Offloaded):
    """Notes the blocks in the order in which they are brought."""

    def __init__(self, *given):
        self.brought = []
        super().__init__(*given)

    def _fetch(self, place):
        self.brought.append(place)
        return super()._fetch(place)


def frozen_tensors(block):
    return [t for t in (*block.parameters(), *block.buffers()) if not t.requires_grad]


def is_here(block):
    return block.base.weight.numel() > 0


def test_gradients_are_the_same_and_each_block_is_brought_one_ahead():
    torch.manual_seed(0)
    blocks = nn.ModuleList(Block() for _ in range(6))
    plain = copy.deepcopy(blocks)
    chosen = spread(list(blocks), 3)
    assert chosen == [blocks[0], blocks[2], blocks[4]]
    watched, here = Watched(chosen, CPU), []
    for block in chosen:
        block.adapter.register_forward_hook(
            lambda *call: here.append(len(watched.ahead) + sum(map(is_here, chosen)))
        )
    for expected in ([0, 1, 2, 2, 1, 0, 1], [0, 2, 2, 1, 0, 1]):  # at the end what comes next
        for network in (plain, blocks):
            x = torch.ones(2, 6)
            for block in network:
                x = checkpoint(block, x, use_reentrant=False)
            x.square().sum().backward()
        assert watched.brought == expected
        watched.brought.clear()
    for block, other in zip(blocks, plain, strict=True):
        assert torch.equal(block.adapter.weight.grad, other.adapter.weight.grad)
    with torch.no_grad():
        torch.testing.assert_close(nn.Sequential(*blocks)(x), nn.Sequential(*plain)(x))
    assert not any(map(is_here, chosen))
    assert all(block.adapter.weight.numel() == 36 for block in chosen)
    assert max(here) == 2


@pytest.mark.parametrize(("is_compiled", "bits"), [(False, None), (True, None), (False, "int8")])
def test_a_lora_learns_the_same_on_an_offloaded_base(workspace, monkeypatch, is_compiled, bits):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    awake(workspace)
    params = workspace.params(method="lora", lora={"rank": 2}, ema=None, base_quantization=bits)
    params = replace(params, gradient_checkpointing=True, compile=is_compiled)
    gradients = []
    for is_offloaded in (False, True):
        trainer = create_trainer(params)
        state, batch = trainer.state, trainer.batches.at(0)[0]
        if is_offloaded:
            blocks = state.model.denoiser.blocks()
            Offloaded(blocks, CPU)
            assert not any(t.numel() for block in blocks for t in frozen_tensors(block))
        state.backward(trainer.method.losses(state.model, batch).sum())
        gradients.append({name: p.grad for name, p in state.trainable.items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient)


def test_without_a_gpu_it_is_refused(workspace):
    params = workspace.params(method="lora", lora={"rank": 2}, ema=None)
    with pytest.raises(ValueError, match=r"hardware.offload_blocks: 1 given, but there is no GPU"):
        create_trainer(replace(params, offload_blocks=1))


def test_more_blocks_than_there_are_is_refused(workspace):
    model = create_trainer(workspace.params()).state.model
    with pytest.raises(ValueError, match=r"offload_blocks: 99 given, but the base has 2 blocks"):
        offload_blocks(model, 99, torch.device("cuda"))


@pytest.mark.parametrize(
    ("experiment", "given", "message"),
    [
        ("digits_flux2", [], "full fine-tuning has no frozen base"),
        ("gym_flux2_lora", ["hardware.gradient_checkpointing=false"], "set it to true"),
    ],
)
def test_what_cannot_be_offloaded_is_refused(experiment, given, message):
    with pytest.raises(ValueError, match=message):
        settled(EXPERIMENTS / f"{experiment}.yaml", [*given, "hardware.offload_blocks=2"])
