"""Processes that hold a part of the weights each train, save, resume and end as one."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from stages.params.resolve import settled
from stages.train.model import Model
from stages.train.peers import PeerLostError, Peers
from stages.train.sharding import Shards
from stages.train.stage import create_trainer, run, weights_fingerprint
from tests.train.processes import SETTINGS, losses_of, together

WEIGHTS = "weights/diffusion_pytorch_model.safetensors"


def sharded(workspace, **training):
    workspace.tree["hardware"] = {"threads": 1, "processes": 2, "sharding": "full"}
    return workspace.params(**{**SETTINGS, **training})


class Network(nn.Module):
    """Two layers in blocks, and a weight of a single row around them."""

    config = None

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 4, bias=False)
        self.scale = nn.Parameter(torch.ones(1, 4))
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x):
        return self.scale * self.second(self.first(x)) + self.shift


class Denoiser:
    """What of a denoiser is asked for here."""

    def __init__(self, network):
        self.network = network


def hold_shards():
    peers = Peers.meet(2, in_step=True)
    torch.manual_seed(0)
    network, alone = Network(), Network()
    alone.load_state_dict(network.state_dict())
    whole = {name: p.detach().clone() for name, p in network.named_parameters()}
    blocks = [network.first, network.second]
    shards = Shards(network, blocks, list(whole), torch.device("cpu"), peers)
    rows = {name: len(p) for name, p in shards.trainable.items()}
    assert list(rows.values()) == ([1, 3, 3, 2] if peers.is_first else [0, 2, 2, 2])
    assert shards.num_parameters == sum(p.numel() for p in whole.values())

    inputs = torch.randn(2, 3, 4)
    for _ in range(2):
        network(inputs[peers.rank]).square().sum().backward()
        for each in inputs:
            alone(each).square().sum().backward()
    shards.add_gradients()
    found = shards.joined({f"{name}.slot": p.grad for name, p in shards.trainable.items()})
    expected = torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
    torch.testing.assert_close(shards.clip_gradients(Accelerator(cpu=True), 1.0), expected)
    clipped = shards.joined({name: p.grad for name, p in shards.trainable.items()})
    if peers.is_first:
        for name, p in alone.named_parameters():
            torch.testing.assert_close(clipped[name], p.grad)
            assert (found[f"{name}.slot"] - p.grad).abs().max() > 1e-3
    assert network.first.weight.grad is None

    halves = {f"{name}.half": p.to(torch.int16) for name, p in whole.items()}
    kept = {**whole, **halves, "scale.step": torch.tensor(3.0)}
    own = shards.own(kept)
    assert shards.num_bytes(own) == sum(tensor.nbytes for tensor in kept.values())
    joined = shards.joined(own)
    assert joined.keys() == (kept.keys() if peers.is_first else set())
    assert all(torch.equal(joined[key], kept[key]) for key in joined)

    before = network(inputs[0]).detach()
    with torch.no_grad(), shards.swapped(shards.own({k: 2 * p for k, p in whole.items()})):
        model = shards.whole_model(Model(Denoiser(network)))
        changed = network(inputs[0])
    torch.testing.assert_close(changed, 8 * (before - 1) + 1)
    assert torch.equal(network(inputs[0]), before), "the trained weights are back"
    if peers.is_first:
        assert type(model.denoiser.network) is Network
        assert torch.equal(model.denoiser.network(inputs[0]), changed)
    peers.leave()


def test_shards_are_rows_of_the_weights_and_join_to_them(forks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert together(forks, 2, hold_shards) == [0, 0]


def watched(params):
    """Train; note what this process holds before the third step, and keep a late checkpoint."""
    trainer = create_trainer(params)
    state = trainer.state
    advance = state.advance

    def note_and_advance():
        if state.step == 2:
            held = {
                name: sum(t.nbytes for t in of.values()) for name, of in state.tensors().items()
            }
            held["gradients"] = sum(p.grad.nbytes for p in state.trainable.values())
            held["network"] = sum(p.to_local().nbytes for p in state.network.parameters())
            Path(f"held-{state.peers.rank}.json").write_text(json.dumps(held))
        if state.step == 19 and state.peers.is_first:
            shutil.copytree(trainer.checkpoints.folder, "kept")
        advance()

    state.advance = note_and_advance
    trainer.fit()


def test_shards_train_as_one_process_and_resume(make_workspace, forks):
    workspace = make_workspace(num_variants=2, repeats=(1, 2), weights=(1.0, 0.5))
    length = {"steps": None, "epochs": 6, "posterior": "mean"}  # the last step is short
    length["checkpoint"] = {"every": 3, "keep": 2, "keep_best": True, "use": "best"}
    workspace.tree["hardware"] = {"threads": 1}
    run(workspace.params(**{**SETTINGS, **length}))
    alone, weights = losses_of(workspace), load_file(workspace.output / WEIGHTS)
    assert len(alone["loss"]) >= 20

    params = sharded(workspace, **length)
    assert together(forks, 2, watched, params) == [0, 0]
    curves, trained = losses_of(workspace), load_file(workspace.output / WEIGHTS)
    for name, rows in curves.items():
        assert torch.tensor(rows) == pytest.approx(torch.tensor(alone[name]), abs=1e-5)
    assert trained.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(trained[name], weight, atol=1e-4, rtol=0)
    size = sum(weight.nbytes for weight in weights.values())
    for rank in (0, 1):
        held = json.loads(Path(f"held-{rank}.json").read_text())
        for name, copies in {
            "network": 1,
            "weights": 1,
            "ema": 1,
            "gradients": 1,
            "optimizer": 2,
        }.items():
            assert held[name] / (copies * size) == pytest.approx(0.5, abs=0.05), (name, rank)

    folder = workspace.store / "checkpoints" / weights_fingerprint(params)[:16]
    shutil.rmtree(folder)
    Path("kept").rename(folder)
    assert together(forks, 2, run, params) == [0, 0]
    assert Path("said").read_text().count("going on after step 18") == 1
    assert losses_of(workspace) == curves, "resuming is exact"
    resumed = load_file(workspace.output / WEIGHTS)
    assert all(torch.equal(resumed[name], weight) for name, weight in trained.items())


def killed(params):
    """Train; the second process dies in the middle of a backward pass."""
    trainer = create_trainer(params)
    backward = trainer.state.backward

    def backward_or_die(loss):
        if trainer.state.step == 2 and not trainer.state.peers.is_first:
            os.kill(os.getpid(), signal.SIGKILL)
        backward(loss)

    trainer.state.backward = backward_or_die
    try:
        trainer.fit()
    except PeerLostError as error:
        print(error)


def test_a_process_whose_partner_dies_says_so_in_one_sentence(workspace, forks):
    assert together(forks, 2, killed, sharded(workspace)) == [0, -signal.SIGKILL]
    assert "process 0 of 2 lost another one of this training" in Path("said").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["hardware.processes=1"], r"sharding: 'full' given, but hardware\.processes is 1"),
        (["training.optimizer.type=muon"], r"training\.optimizer\.type 'muon' looks at whole"),
        (
            ["training.optimizer.type=adamw_8bit"],
            r"'adamw_8bit' looks at .* set it to one of \['adamw'",
        ),
        (["training.method=lora"], r"training\.method 'lora' trains 'lora' beside a frozen base"),
    ],
)
def test_what_cannot_be_divided_is_refused(given, message):
    file = Path(__file__).parents[2] / "params/experiments/digits_flux2.yaml"
    hardware = ["hardware.processes=2", "hardware.sharding=full"]
    with pytest.raises(ValueError, match=message):
        settled(file, [*hardware, "training.gradient_accumulation=2", *given])
