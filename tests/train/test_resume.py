"""A training that is killed at any moment ends with the same bytes as an undisturbed one."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from stages.train import fingerprint
from stages.train.checkpoints import checkpoint_folder
from stages.train.stage import run, weights_fingerprint


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def undisturbed(workspace, params):
    """Train without a break, then forget it."""
    run(params)
    outcome = bytes_of(workspace.output)
    forget(workspace)
    return outcome


def forget(workspace):
    shutil.rmtree(workspace.output)
    shutil.rmtree(workspace.store / "checkpoints")


def checkpoints(workspace, params):
    folder = checkpoint_folder(str(workspace.store), weights_fingerprint(params))
    return sorted(folder.glob("step-*"))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_kill_9_at_any_moment_changes_nothing(make_workspace, forks):
    workspace = make_workspace(num_variants=3, repeats=(1, 3), weights=(1.0, 0.5), scales=(1, 2))
    params = workspace.params(steps=40)
    expected = undisturbed(workspace, params)
    moments = random.Random(0)
    folder = checkpoint_folder(str(workspace.store), weights_fingerprint(params))
    for round_ in range(6):
        before = checkpoints(workspace, params)
        child = forks.Process(target=run, args=(params,))
        child.start()
        if round_ % 2:
            wait_for(lambda: any(folder.glob(".*.partial")))  # while a checkpoint is written
        else:
            wait_for(lambda: checkpoints(workspace, params) != before)  # noqa: B023
            time.sleep(moments.uniform(0, 0.05))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"round {round_}: ended before it was killed"
        assert not workspace.output.exists()
    run(params)
    assert bytes_of(workspace.output) == expected


def test_a_signal_saves_a_checkpoint_and_exits_with_its_code(workspace, forks):
    params = workspace.params(steps=100, checkpoint={"every": 30, "keep": 2})
    expected = undisturbed(workspace, params)
    for number, code in [(signal.SIGINT, 130), (signal.SIGTERM, 143)]:
        before = len(checkpoints(workspace, params))
        child = forks.Process(target=run, args=(params,))
        child.start()
        wait_for(lambda: len(checkpoints(workspace, params)) > before)  # noqa: B023
        time.sleep(0.03)  # a few steps past the checkpoint
        os.kill(child.pid, number)
        child.join()
        assert child.exitcode == code
        assert int(checkpoints(workspace, params)[-1].name[5:]) % 30, "it saved where it stopped"
        assert not workspace.output.exists()
        shutil.rmtree(checkpoints(workspace, params)[0])
    run(params)
    assert bytes_of(workspace.output) == expected


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(workspace, forks, capsys):
    params = workspace.params()
    expected = undisturbed(workspace, params)
    child = forks.Process(target=run, args=(params,))
    child.start()
    wait_for(lambda: len(checkpoints(workspace, params)) == 2)
    child.kill()
    child.join()
    *_, older, newest = checkpoints(workspace, params)
    weights = newest / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    run(params)
    assert f"{newest} is damaged" in (said := capsys.readouterr().out)
    assert f"going on after step {int(older.name[5:])} from {older}" in said
    assert bytes_of(workspace.output) == expected


@pytest.mark.parametrize("damage", ["truncated", "missing file", "no facts", "broken facts"])
def test_every_damage_is_noticed(workspace, damage):
    params = workspace.params(steps=3)
    expected = undisturbed(workspace, params)
    run(params)
    (newest,) = checkpoints(workspace, params)
    {
        "truncated": lambda: (newest / "optimizer.safetensors").write_bytes(b""),
        "missing file": (newest / "ema.safetensors").unlink,
        "no facts": (newest / "state.json").unlink,
        "broken facts": lambda: (newest / "state.json").write_text("{"),
    }[damage]()
    run(params)
    assert bytes_of(workspace.output) == expected


def test_a_finished_training_is_not_repeated_when_its_outputs_are_gone(workspace, monkeypatch):
    params = workspace.params(steps=6)
    run(params)
    expected = bytes_of(workspace.output)
    shutil.rmtree(workspace.output)
    assert [path.name for path in checkpoints(workspace, params)] == ["step-00000006"]
    monkeypatch.setattr("stages.train.trainer.fit", None)  # would fail if it were called
    run(params)
    assert bytes_of(workspace.output) == expected


def test_a_changed_parameter_starts_anew_and_checkpoint_settings_do_not(workspace):
    digest = weights_fingerprint(workspace.params())
    assert weights_fingerprint(workspace.params(checkpoint={"every": 5, "keep": 1})) == digest
    assert weights_fingerprint(workspace.params(learning_rate=1e-3)) != digest


def test_the_code_in_the_fingerprint_is_the_code_that_dvc_reruns_training_for():
    root = Path(__file__).parents[2]
    listed = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["train"]["deps"]
    shared = tuple(f"stages/{name}" for name in fingerprint.SHARED)
    code = ("modelzoo", "stages/train", *shared)
    packages = [root / name for name in listed if name.startswith(code)]
    counted = [path for path in fingerprint.code() if path.name != "__init__.py"]
    assert all(any(path.is_relative_to(package) for package in packages) for path in counted)
    assert all(any(path.is_relative_to(package) for path in counted) for package in packages)


def test_the_disk_is_asked_for_room_before_training(workspace, monkeypatch):
    params = workspace.params()
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(ValueError, match=r"0\.0 GB free, but 3 more checkpoints need"):
        run(params)
    assert not workspace.output.exists()
