"""DreamBooth: both parts of the loss, whatever the micro-batches; the base as its own prior."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from modelzoo.denoiser import load_denoiser
from modelzoo.families import family
from stages.params.resolve import settled
from stages.train.batches import Batch
from stages.train.peers import Peers
from stages.train.prediction import predict
from stages.train.prior import PriorBatches
from stages.train.stage import Trainer, create_trainer, run

PROMPTS = {"instance_prompt": "picture 1", "class_prompt": "picture 0"}
PREDICTION = {**PROMPTS, "prior": "prediction", "num_class_images": 0}
LORA = {"rank": 2, "target_modules": ["proj_out"]}


def dreambooth(**changes: Any) -> dict[str, Any]:
    return {"method": "dreambooth", "dreambooth": {**PROMPTS, **changes}}


def unweighted(trainer: Trainer, batch: Batch) -> torch.Tensor:
    """Return each item's loss against the objective's own target, (B,)."""
    prediction = predict(trainer.state.model, trainer.method.objective, batch).float()
    objective = trainer.method.objective
    return objective.losses(prediction, batch.latents, batch.noise, batch.t)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (1, 3), (2, 2), (5, 1), (16, 1)])
@torch.no_grad()
def test_the_loss_is_the_sum_of_both_means_whatever_the_micro_batches(
    make_workspace: Callable[..., Any], batch_size: int, accumulation: int
) -> None:
    workspace = make_workspace(num_prior=7)
    sizes = {"batch_size": batch_size, "gradient_accumulation": accumulation}
    settings = dreambooth(prior_preservation_weight=0.3)
    trainer = create_trainer(workspace.params(**settings, **sizes))
    for step in range(4):
        batches = trainer.batches.at(step)
        assert sum(bool(batch.prior.all()) for batch in batches) * 2 == len(batches)
        total = sum(trainer.method.losses(trainer.state.model, batch).sum() for batch in batches)
        loss = total / sum(map(len, batches))
        losses = torch.cat([unweighted(trainer, batch) for batch in batches])
        prior = torch.cat([batch.prior for batch in batches])
        torch.testing.assert_close(loss, losses[~prior].mean() + 0.3 * losses[prior].mean())


@pytest.mark.parametrize("train", ["full_finetune", "lora"])
def test_with_weight_0_the_subject_is_learned_as_without_a_prior(
    make_workspace: Callable[..., Any], train: str
) -> None:
    workspace = make_workspace(num_prior=6)
    lora = {"lora": LORA} if train == "lora" else {}
    run(workspace.params(**dreambooth(prior_preservation_weight=0.0), **lora, steps=5))
    held = weights(workspace)
    workspace.write_latents([row for row in workspace.latents() if not row["prior"]])
    run(workspace.params(method=train, **lora, steps=5))
    plain = weights(workspace)
    assert held.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(held[name], value, rtol=1e-5, atol=1e-6)


def weights(workspace: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    files = sorted((workspace.output / "weights").glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


def test_epochs_count_the_subject_and_the_class_is_seen_as_often(
    make_workspace: Callable[..., Any],
) -> None:
    workspace = make_workspace(num_images=14, num_validation=2, num_prior=8)
    run(workspace.params(**dreambooth(), steps=None, epochs=6, batch_size=2, lr_schedule={}))
    prior = {row["sample_id"] for row in workspace.latents() if row["prior"]}
    ledger = pq.read_table(workspace.output / "ledger.parquet").to_pylist()
    visits = {row["sample_id"]: row["num_visits"] for row in ledger}
    assert {visits[name] for name in visits.keys() - prior} == {6}
    assert sum(visits[name] for name in prior) == 24
    assert {visits[name] for name in prior} <= {2, 3, 4}


@pytest.mark.parametrize("settings", [dreambooth(), {**dreambooth(), "dreambooth": PREDICTION}])
def test_both_parts_of_the_loss_are_curves_that_add_up(
    make_workspace: Callable[..., Any], settings: dict[str, Any]
) -> None:
    num_prior = 6 if settings["dreambooth"].get("prior") is None else 0
    workspace = make_workspace(num_prior=num_prior)
    run(workspace.params(**settings, steps=8))
    with (workspace.output / "curves/loss.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == 2
    for row in rows:
        assert row["loss_instance"] > 0
        assert row["loss_class"] > 0
        assert row["loss"] == pytest.approx(row["loss_instance"] + row["loss_class"])


@pytest.mark.parametrize("lora", [None, LORA])
@torch.no_grad()
def test_the_base_itself_is_the_prior_where_no_pictures_are_made(
    workspace: Any, lora: dict[str, Any] | None
) -> None:
    settings = {**dreambooth(), "dreambooth": PREDICTION, "lora": lora}
    trainer = create_trainer(workspace.params(**settings, caption_dropout=0.0))
    own, of_class = trainer.batches.at(0)
    assert own.prior is None
    assert own.names == of_class.names
    for name in ("latents", "noise", "t"):
        assert torch.equal(getattr(own, name), getattr(of_class, name))
    model = trainer.state.model
    assert trainer.method.losses(model, of_class).tolist() == [0.0] * len(of_class)
    for p in trainer.state.trainable.values():
        p += 0.1 * torch.randn_like(p)
    kind = family(workspace.family)
    base = load_denoiser(kind.denoiser, workspace.root / "data/base/model" / kind.folder)
    conditioning = base.conditioning(of_class.conditions)
    noisy = trainer.method.objective.noisy(of_class.latents, of_class.noise, of_class.t)
    target = base.predict(noisy, of_class.t, conditioning)
    told = {**trainer.batches.samples.prompt_rows.take(["picture 0", "picture 1"])}["context"]
    expected = (predict(model, trainer.method.objective, of_class) - target).square()
    losses = trainer.method.losses(model, of_class)
    torch.testing.assert_close(losses, of_class.weights * expected.flatten(1).mean(1))
    assert losses.min() > 0
    for row, other in zip(of_class.conditions["context"], own.conditions["context"], strict=True):
        if torch.equal(other, torch.from_numpy(told[1])):
            assert torch.equal(row, torch.from_numpy(told[0]))
        else:
            assert torch.equal(row, other)


def test_a_resumed_training_is_held_to_the_same_base(
    workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**dreambooth(), "dreambooth": PREDICTION}
    params = workspace.params(**settings, steps=6)
    run(params)
    straight = weights(workspace)
    shutil.rmtree(workspace.store / "checkpoints")

    def dies(batches: PriorBatches, step: int) -> Any:
        if step > 4:
            raise KeyboardInterrupt
        return at(batches, step)

    at = PriorBatches.at
    monkeypatch.setattr(PriorBatches, "at", dies)
    with pytest.raises(KeyboardInterrupt):
        run(params)
    monkeypatch.setattr(PriorBatches, "at", at)
    trainer = create_trainer(params)
    trainer.checkpoints.restore(trainer.state)
    assert trainer.state.step == 3
    run(params)
    resumed = weights(workspace)
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())


def test_two_processes_share_a_step_and_know_of_each_others_items(
    make_workspace: Callable[..., Any],
) -> None:
    workspace = make_workspace(num_prior=6)
    params = workspace.params(**dreambooth(), batch_size=2, gradient_accumulation=2)
    batches = create_trainer(params).batches
    alone = batches.at(0)
    shared = [replace(batches, peers=Peers(rank, 2)).at(0) for rank in (0, 1)]
    for place, whole in enumerate(alone):
        of_ranks = [at[place] for at in shared]
        assert [isinstance(part, Batch) for part in of_ranks] == [place % 2 == 0, place % 2 == 1]
        for part in of_ranks:
            assert part.names == whole.names
        assert torch.equal(of_ranks[place % 2].weights, whole.weights)


@pytest.mark.parametrize(
    ("num_prior", "settings", "message"),
    [
        (0, dreambooth(), r"has no pictures of DreamBooth's class, .*'images': run `dvc repro`"),
        (3, {}, r"has 3 pictures of DreamBooth's class, .*'none': run `dvc repro`"),
        (
            0,
            {**dreambooth(), "dreambooth": {**PREDICTION, "class_prompt": "picture 7"}},
            r"caption 'picture 7' is not in the manifest",
        ),
    ],
)
def test_tables_of_another_training_are_refused(
    make_workspace: Callable[..., Any], num_prior: int, settings: dict[str, Any], message: str
) -> None:
    workspace = make_workspace(num_prior=num_prior)
    with pytest.raises(ValueError, match=message):
        create_trainer(workspace.params(**settings))


BASE = Path(__file__).parents[2] / "params/experiments/digits_flux2.yaml"


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Any]:
    """Resolve the digits' experiment with DreamBooth's section."""

    def resolve(**changes: Any) -> Any:
        given = {"instance_prompt": "sks digits", "class_prompt": "digits"} | changes
        training = {"method": "dreambooth", "dreambooth": given}
        path = tmp_path / "experiment.yaml"
        tree = {"_base_": [str(BASE)], "experiment": {"name": "hand"}, "training": training}
        path.write_text(yaml.safe_dump(tree))
        return settled(path)

    return resolve


def test_the_defaults_hold_200_pictures_of_the_class(experiment: Callable[..., Any]) -> None:
    settings = experiment().training.dreambooth
    assert (settings.prior, settings.num_class_images) == ("images", 200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instance_prompt": " "}, r"instance_prompt: ' ' given, but it has no word"),
        ({"instance_prompt": "digits"}, r"has no word that class_prompt 'digits' lacks"),
        ({"class_prompt": "a cat"}, r"has no word of class_prompt 'a cat'"),
        ({"class_prompt": "digits {one|two"}, r"has a brace without its partner"),
        ({"num_class_images": 0}, r"num_class_images: 0 given, .* set prior to 'prediction'"),
        ({"prior": "prediction"}, r"num_class_images: 200 given, .* set it to 0"),
        ({"prior": "none"}, r"num_class_images: 200 given, .*'none' uses no pictures"),
        (
            {"prior": "prediction", "num_class_images": 0, "class_prompt": "digits {one|two}"},
            r"has a choice \{a\|b\}",
        ),
        ({"train": "lora"}, r"training\.lora is null: give it"),
        ({"class_images": {"width": 33}}, r"class_images\.width: 33 given, a multiple of 8"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_runs(
    experiment: Callable[..., Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**changes)
