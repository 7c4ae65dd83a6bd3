"""Several processes train the same weights as one, and end together."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from stages.params.resolve import settled
from stages.train.peers import Peers
from stages.train.stage import create_trainer, run, weights_fingerprint
from tests.train.processes import SETTINGS, losses_of, together


def with_processes(workspace, num, **training):
    workspace.tree["hardware"] = {"threads": 1, "processes": num}
    return workspace.params(**{**SETTINGS, **training})


def test_two_processes_train_as_one(make_workspace, forks):
    workspace = make_workspace(num_variants=2, repeats=(1, 2), weights=(1.0, 0.5))
    length = {"steps": None, "epochs": 6, "posterior": "mean"}  # the last step is short
    run(with_processes(workspace, 1, **length))
    alone = losses_of(workspace)
    weights = load_file(workspace.output / "weights/diffusion_pytorch_model.safetensors")
    assert len(alone["loss"]) >= 20
    assert together(forks, 2, run, with_processes(workspace, 2, **length)) == [0, 0]
    for name, rows in losses_of(workspace).items():
        assert torch.tensor(rows) == pytest.approx(torch.tensor(alone[name]), abs=1e-5)
    trained = load_file(workspace.output / "weights/diffusion_pytorch_model.safetensors")
    for name, weight in weights.items():
        torch.testing.assert_close(trained[name], weight, atol=1e-4, rtol=0)


def add_unlike_gradients():
    peers = Peers.meet(2)
    first, second, third = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    if peers.is_first:
        first.grad, second.grad = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    else:
        first.grad = torch.tensor([10.0, 20.0])
    peers.add_gradients([first, second, third])
    assert first.grad.tolist() == [11, 22]
    assert second.grad.tolist() == [3, 4]
    assert third.grad is None, "what no process has a gradient of is not stepped"
    assert peers.highest(peers.rank) == 1
    assert peers.told(f"from {peers.rank}") == "from 0"
    peers.leave()


def test_gradients_of_a_process_without_any_count_as_zeros(forks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert together(forks, 2, add_unlike_gradients) == [0, 0]


def test_a_killed_process_ends_the_others_with_one_sentence_and_training_resumes(workspace, forks):
    params = with_processes(workspace, 2, steps=60, checkpoint={"every": 5, "keep": 2})
    folder = workspace.store / "checkpoints" / weights_fingerprint(params)[:16]
    trainer = workspace.start()
    deadline = time.monotonic() + 180  # loaded cores take long to import torch thrice
    while not any(folder.glob("step-*")):
        assert trainer.poll() is None, trainer.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ranks = psutil.Process(trainer.pid).children()
    victim = next(rank for rank in ranks if rank.environ()["RANK"] == "1")
    victim.send_signal(signal.SIGKILL)
    began = time.monotonic()
    said = trainer.communicate(timeout=120)[0]
    assert time.monotonic() - began < 60
    assert trainer.returncode == 1
    assert f"process 1 of 2 (pid {victim.pid}) was ended by SIGKILL" in said
    assert f"run again to resume from {folder}" in said
    assert "Traceback" not in said
    assert said.count("train: process") == 1
    assert not any(rank.is_running() for rank in ranks)
    assert together(forks, 2, run, params) == [0, 0]
    said = Path("said").read_text()
    assert said.count("going on after step") == 1, "the first process alone speaks"
    assert json.loads((workspace.output / "summary.json").read_text())["steps"] == 60


def stopped_at(params, step):
    """Train; the second process alone is told to stop after a step."""
    trainer = create_trainer(params)
    advance = trainer.state.advance

    def advance_and_tell():
        advance()
        if trainer.state.step == step and not trainer.state.peers.is_first:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.state.advance = advance_and_tell
    trainer.fit()


def test_a_signal_to_one_process_stops_all_after_the_same_step(workspace, forks):
    params = with_processes(workspace, 2, checkpoint={"every": 100, "keep": 2})
    assert together(forks, 2, stopped_at, params, 7) == [143, 143]
    folder = workspace.store / "checkpoints" / weights_fingerprint(params)[:16]
    assert [path.name for path in folder.glob("step-*")] == ["step-00000007"]
    assert Path("said").read_text().count("stopped by SIGTERM after step 7") == 1
    assert not workspace.output.exists()
    assert together(forks, 2, run, params) == [0, 0]
    stopped = losses_of(workspace)
    shutil.rmtree(folder)
    assert together(forks, 2, run, params) == [0, 0]
    assert losses_of(workspace) == stopped, "resuming is exact"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["hardware.processes=2"], r"a step has 1 micro-batches to share"),
        (
            [
                "hardware.processes=2",
                "training.gradient_accumulation=2",
                "training.max_grad_norm=null",
                "training.optimizer.fused_backward=true",
            ],
            r"fused_backward",
        ),
    ],
)
def test_what_several_processes_cannot_do_is_refused(tmp_path, given, message):
    file = Path(__file__).parents[2] / "params/experiments/digits_flux2.yaml"
    with pytest.raises(ValueError, match=message):
        settled(file, given)


def test_a_launcher_that_starts_another_number_is_refused(workspace, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"hardware\.processes: 1 given, .* started 4"):
        create_trainer(with_processes(workspace, 1))


def test_a_node_with_fewer_gpus_than_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="was to start process 2, but it has 1 GPUs"):
        Peers.meet(4)
