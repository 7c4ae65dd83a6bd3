"""Which checkpoints are kept, which weights are used, and what ends a training that goes wrong."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from stages.train.bad_steps import MIN_RECENT, BadSteps
from stages.train.checkpoints import checkpoint_folder
from stages.train.stage import create_trainer, run, weights_fingerprint

WEIGHTS = "weights/diffusion_pytorch_model.safetensors"
# rises after a while: the rate is far too high
GETS_WORSE = {
    "steps": 12,
    "learning_rate": 0.05,
    "lr_schedule": {"type": "constant"},
    "ema": None,
    "validation": {"every": 2, "images": 3, "timesteps": [0.25, 0.75]},
}
BEST = {"every": 3, "keep": 1, "keep_best": True, "use": "best"}


def folder_of(workspace, params):
    return checkpoint_folder(str(workspace.store), weights_fingerprint(params))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def outcome(workspace):
    files = [path for path in workspace.output.rglob("*") if path.is_file()]
    return {path.relative_to(workspace.output): path.read_bytes() for path in files}


def summary(workspace):
    return json.loads((workspace.output / "summary.json").read_text())


def validations(workspace):
    lines = (workspace.output / "curves/val_loss.csv").read_text().splitlines()[1:]
    return {int(step): float(loss) for step, loss in (line.split(",") for line in lines)}


def test_the_best_weights_are_kept_and_used(workspace):
    params = workspace.params(**GETS_WORSE, checkpoint=BEST)
    run(params)
    losses = validations(workspace)
    best = min((step for step in losses if step), key=losses.get)
    assert 0 < best < 12, "the test's training gets worse"
    assert summary(workspace)["weights_step"] == best
    assert summary(workspace)["steps"] == 12
    assert summary(workspace)["val_loss"] == losses[best]
    assert names_in(folder_of(workspace, params)) == [f"best-{best:08d}", "step-00000012"]
    used = load_file(workspace.output / WEIGHTS)
    run(workspace.params(**{**GETS_WORSE, "steps": best}))
    stopped = load_file(workspace.output / WEIGHTS)
    assert all(torch.equal(used[name], stopped[name]) for name in used)


def test_a_kill_does_not_change_which_weights_are_best(workspace, forks):
    params = workspace.params(**GETS_WORSE, checkpoint=BEST | {"every": 5})
    run(params)
    expected, folder = outcome(workspace), folder_of(workspace, params)
    best = summary(workspace)["weights_step"]
    for step in (best, best + 1, 10):
        shutil.rmtree(folder)
        shutil.rmtree(workspace.output)
        child = forks.Process(target=run_to, args=(params, step))
        child.start()
        child.join()
        assert child.exitcode == 9
        run(params)
        assert outcome(workspace) == expected


def run_to(params, step):
    """Train, and leave the process without a word after a step."""
    import os

    trainer = create_trainer(params)
    advance = trainer.state.advance

    def leave_at():
        advance()
        if trainer.state.step == step + 1:
            os._exit(9)

    trainer.state.advance = leave_at
    trainer.fit()


def test_the_last_and_the_best_weights_come_of_one_training(workspace, monkeypatch):
    last = workspace.params(**GETS_WORSE, checkpoint=BEST | {"use": "last"})
    run(last)
    assert summary(workspace)["weights_step"] == 12
    fingerprint = summary(workspace)["fingerprint"]
    monkeypatch.setattr("stages.train.trainer.fit", None)  # would fail if it were called
    run(workspace.params(**GETS_WORSE, checkpoint=BEST))
    assert 0 < summary(workspace)["weights_step"] < 12
    assert summary(workspace)["fingerprint"] != fingerprint, "other weights"


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_the_first_step(
    workspace, monkeypatch
):
    trainer = create_trainer(workspace.params(checkpoint={"every": 2, "keep": 1}))
    predicted = trainer.state.checkpoint_bytes()
    trainer.fit()
    newest = trainer.checkpoints.newest
    written = {file.stem: file.stat().st_size for file in newest.glob("*.safetensors")}
    assert written.keys() == predicted.keys()
    for name, size in predicted.items():
        assert 0 <= written[name] - size < 150 * len(trainer.state.trainable) * 3, "the headers"
    needed = 2 * sum(predicted.values())  # the newest is written before the one before goes
    usage = shutil.disk_usage(workspace.root)
    fresh = create_trainer(workspace.params(checkpoint={"every": 2, "keep": 1}, learning_rate=0.5))
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        fresh.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        with nullcontext() if fits else pytest.raises(ValueError, match="2 more checkpoints need"):
            fresh.checkpoints.require_space(fresh.state)


@pytest.mark.parametrize("loss", ["never kept", "damaged"])
def test_without_its_best_checkpoint_a_training_starts_anew(workspace, capsys, loss):
    kept = workspace.params(**GETS_WORSE, checkpoint=BEST)
    run(kept)
    expected, folder = outcome(workspace), folder_of(workspace, kept)
    (best,) = folder.glob("best-*")
    if loss == "damaged":
        (best / "weights.safetensors").write_bytes(b"")
    else:
        shutil.rmtree(best)
    capsys.readouterr()
    run(kept)
    assert "did not keep its best checkpoint, so training starts anew" in capsys.readouterr().out
    assert outcome(workspace) == expected


def test_using_the_best_weights_without_keeping_them_is_refused(workspace):
    with pytest.raises(ValueError, match=r"checkpoint\.keep_best is false: set it to true"):
        workspace.params(checkpoint={"use": "best"})


def test_a_loss_far_above_the_usual_counts_as_bad():
    bad = BadSteps(max_steps=2, explosion_factor=10.0)
    for step in range(MIN_RECENT):
        bad.add(1.0 if step else 1000.0, True, ("early",))
    assert bad.num == 0, "nothing is usual yet"
    bad.add(9.0, True, ("a",))
    assert bad.num == 0
    bad.add(11.0, True, ("b", "c"))
    assert (bad.num, bad.are_too_many, bad.is_finite) == (1, False, True)
    bad.add(1.0, True, ("d",))
    assert bad.num == 0
    bad.add(11.0, True, ("e",))
    bad.add(float("nan"), False, ("f",))
    assert bad.are_too_many
    assert "not finite since step 5, which trained on samples e" in bad.message(6)
    bad.add(11.0, True, ("g",))
    assert "the loss is more than 10 times the usual 1 since step 5" in bad.message(7)


def exploding(trainer, since):
    predict, state = trainer.state.model.denoiser.predict, trainer.state
    state.model.denoiser.predict = lambda *of: predict(*of) * (100 if state.step >= since else 1)


def test_an_exploding_loss_ends_training_and_spares_the_good_checkpoint(workspace):
    params = workspace.params(
        steps=40, checkpoint={"every": 1, "keep": 2}, max_bad_steps=4, explosion_factor=5.0
    )
    trainer = create_trainer(params)
    exploding(trainer, since=25)
    with pytest.raises(
        ValueError, match=r"more than 5 times the usual \S+ since step 26, which trained on samples"
    ):
        trainer.fit()
    assert max(names_in(trainer.checkpoints.folder)) == "step-00000025"
    assert not workspace.output.exists()


def test_a_last_step_with_a_high_loss_is_kept(workspace):
    params = workspace.params(steps=30, explosion_factor=5.0)
    trainer = create_trainer(params)
    exploding(trainer, since=29)
    trainer.fit()
    assert summary(workspace)["steps"] == 30
    assert names_in(trainer.checkpoints.folder) == ["step-00000030"]


def test_what_is_usual_survives_a_restart(workspace, forks):
    settings = {"steps": 30, "explosion_factor": 5.0, "checkpoint": {"every": 1, "keep": 2}}
    params = workspace.params(**settings)
    child = forks.Process(target=run_to, args=(params, 24))
    child.start()
    child.join()
    trainer = create_trainer(params)
    exploding(trainer, since=24)
    with pytest.raises(ValueError, match="times the usual"):
        trainer.fit()


def test_how_many_bad_steps_end_training_is_a_parameter(workspace):
    trainer = create_trainer(replace(workspace.params(max_bad_steps=1, log_every=1)))
    predict, state = trainer.state.model.denoiser.predict, trainer.state
    state.model.denoiser.predict = lambda *of: predict(*of) * (torch.nan if state.step > 4 else 1)
    with pytest.raises(ValueError, match="not finite since step 6"):
        trainer.fit()
    assert state.step == 6


STOPS = {"steps": 12, "checkpoint": {"every": 4, "keep": 2}}


def stopped(workspace, forks, **training):
    """Train to step 8 and stop; return the folder of the checkpoints."""
    params = workspace.params(**STOPS | training)
    child = forks.Process(target=run_to, args=(params, 8))
    child.start()
    child.join()
    return folder_of(workspace, params)


def test_a_checkpoint_of_other_code_is_gone_on_from_where_it_is_asked_for(
    workspace, forks, monkeypatch, capsys
):
    run(workspace.params(**STOPS))
    expected = (workspace.output / WEIGHTS).read_bytes()
    shutil.rmtree(workspace.store / "checkpoints")
    folder = stopped(workspace, forks)
    monkeypatch.setattr("stages.train.fingerprint._code_digest", lambda files: "edited")
    shutil.rmtree(workspace.output)
    start = {"resume_from": str(folder / "step-00000004")}
    run(workspace.params(**STOPS | {"checkpoint": STOPS["checkpoint"] | start}))
    said = capsys.readouterr().out
    assert "step-00000004 was written by other code" in said
    assert f"going on after step 4 from {folder}" in said
    assert (workspace.output / WEIGHTS).read_bytes() == expected


def test_a_checkpoint_of_other_parameters_is_refused_with_their_names(workspace, forks):
    folder = stopped(workspace, forks)
    start = {"resume_from": str(folder)}
    params = workspace.params(
        **STOPS | {"checkpoint": start, "learning_rate": 2e-2, "ema": None, "batch_size": 3}
    )
    with pytest.raises(ValueError, match=r"resume_from: .*step-00000008 is of another") as error:
        run(replace(params, seed=2))
    said = str(error.value)
    assert "experiment.seed (1 there, 2 here)" in said
    assert "training.learning_rate (0.01 there, 0.02 here)" in said
    assert "training.ema.decay (0.9 there, nothing here)" in said
    assert "training.batch_size (4 there, 3 here)" in said
    rows = workspace.latents()
    workspace.write_latents([row | {"weight": 0.5} for row in rows])
    with pytest.raises(ValueError, match=r"differs in data/latents\.parquet \(other content\):"):
        run(workspace.params(**STOPS | {"checkpoint": start}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no checkpoint", r"no checkpoint is there: give a folder step-"),
        ("no parameters", r"parameters\.json is not there"),
        ("broken", r"step-00000008 is damaged or of code that kept other things"),
    ],
)
def test_a_checkpoint_that_is_asked_for_must_be_whole(workspace, forks, damage, message):
    folder = stopped(workspace, forks)
    if damage == "no checkpoint":
        for path in folder.glob("step-*"):
            shutil.rmtree(path)
    elif damage == "no parameters":
        (folder / "parameters.json").unlink()
    else:
        (folder / "step-00000008" / "weights.safetensors").write_bytes(b"")
    params = workspace.params(**STOPS | {"checkpoint": {"resume_from": str(folder)}})
    with pytest.raises(ValueError, match=message):
        run(params)


def test_a_new_training_says_how_it_differs_from_the_unfinished_one(workspace, forks, capsys):
    folder = stopped(workspace, forks)
    run(workspace.params(**STOPS | {"learning_rate": 2e-2}))
    said = capsys.readouterr().out
    assert f"starting anew: the unfinished training in {folder} (step-00000008)" in said
    assert "differs in training.learning_rate (0.01 there, 0.02 here)\n" in said
    shutil.rmtree(folder)
    run(workspace.params(**STOPS | {"learning_rate": 3e-2}))
    assert "starting anew" not in capsys.readouterr().out, "a finished one was not given up"
