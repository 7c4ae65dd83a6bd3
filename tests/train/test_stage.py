"""Training as a stage: what it refuses, what it writes, and that it learns."""

import csv
import json
import time
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from modelzoo.denoiser import load_denoiser
from modelzoo.flux.v2.model import Flux2
from stages.base_record import read_record, write_record
from stages.train.stage import create_trainer, run, weights_fingerprint


def read_csv(path):
    with path.open() as file:
        header, *rows = list(csv.reader(file))
    return header, [[float(value) for value in row] for row in rows]


def test_it_writes_the_averaged_weights_the_curves_a_summary_and_a_ledger(workspace):
    params = workspace.params()
    run(params)
    header, rows = read_csv(workspace.output / "curves/loss.csv")
    assert header == ["step", "loss", "lr", "grad_norm"]
    assert [row[0] for row in rows] == [4, 8, 12, 16, 20]
    header, rows = read_csv(workspace.output / "curves/val_loss.csv")
    assert header == ["step", "val_loss"]
    assert [row[0] for row in rows] == [0, 7, 14, 20]
    header, by_t = read_csv(workspace.output / "curves/val_loss_by_t.csv")
    assert header == ["t", "base", "trained"]
    assert [row[0] for row in by_t] == [0.25, 0.75]
    summary = json.loads((workspace.output / "summary.json").read_text())
    assert summary["val_loss_base"] == rows[0][1]
    assert summary["val_loss"] == rows[-1][1] < rows[0][1]
    assert (summary["steps"], summary["num_images"]) == (20, 15)
    trainer = create_trainer(params)
    trainer.checkpoints.restore(trainer.state)
    kept = load_denoiser(Flux2, workspace.output / "weights")
    for name, weight in kept.network.state_dict().items():
        assert torch.equal(weight, trainer.state.ema.average[name])
    ledger = pq.read_table(workspace.output / "ledger.parquet").to_pydict()
    assert ledger["sample_id"] == trainer.batches.samples.sample_ids
    assert set(ledger["num_visits"]) == {5}  # 20 steps, 4 micro-batches an epoch


def test_the_validation_loss_of_the_base_does_not_depend_on_the_seed(workspace):
    params = workspace.params()
    trainers = [create_trainer(params), create_trainer(replace(params, seed=99))]
    rows = [trainer.validation.measure(trainer.state) for trainer in trainers]
    assert rows[0] == rows[1]
    assert rows[0].loss == pytest.approx(sum(rows[0].by_t) / 2)


def test_gradient_checkpointing_and_bfloat16_train_too(workspace):
    plain, losses = workspace.params(steps=2, log_every=1), []
    for changes in [{}, {"gradient_checkpointing": True}, {"dtype": "bfloat16"}]:
        params = replace(plain, **changes)
        run(params)
        losses.append(read_csv(workspace.output / "curves/loss.csv")[1][-1][1])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=0.05)
    kept = load_file(workspace.output / "weights/diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.bfloat16}


LEARNING = {
    "sdxl": {"objective": {"type": "ddpm", "timestep_sampling": "uniform"}},
    "flux": {"objective": {"guidance": 1.0}},
    "flux2": {},
    "sd3": {"objective": {"shift": 3.0}},
}


@pytest.mark.parametrize("posterior", ["mean", "sample"])
@pytest.mark.parametrize("family", LEARNING)
def test_every_family_learns(make_workspace, family, posterior):
    workspace = make_workspace(family=family)
    params = workspace.params(**LEARNING[family], posterior=posterior)
    if (family, posterior) == ("flux2", "sample"):
        with pytest.raises(ValueError, match="this autoencoder keeps the mean alone"):
            run(params)
        return
    run(params)
    summary = json.loads((workspace.output / "summary.json").read_text())
    assert summary["val_loss"] < 0.98 * summary["val_loss_base"]


def test_sdxl_is_told_the_sizes_of_its_pictures(make_workspace):
    workspace = make_workspace(family="sdxl")
    trainer = create_trainer(workspace.params(**LEARNING["sdxl"]))
    batches = [batch for step in range(4) for batch in trainer.batches.at(step)]
    for batch in batches:
        for sample_id, sizes in zip(batch.names, batch.conditions["sizes"], strict=True):
            i = int(sample_id, 16)
            assert sizes.tolist() == [100 + i, 200, i % 3, 0, 16, 32 if i % 2 else 16]
    network, seen = trainer.state.model.denoiser.network, []
    network.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    trainer.method.losses(trainer.state.model, batches[0])
    assert torch.equal(seen[0]["time_ids"], batches[0].conditions["sizes"].float())


def test_a_base_whose_scheduler_says_otherwise_gives_other_weights(make_workspace):
    workspace = make_workspace(family="sdxl")
    params = workspace.params(**LEARNING["sdxl"])
    file = workspace.root / "data/base/model/scheduler/scheduler_config.json"
    assert create_trainer(params).method.objective.schedule.prediction_type == "epsilon"
    file.write_text(file.read_text().replace('"epsilon"', '"v_prediction"'))
    assert create_trainer(params).method.objective.schedule.prediction_type == "v_prediction"
    digest = weights_fingerprint(params)
    record = read_record(workspace.root / "data/base/scheduler.json")
    parts = {"scheduler": replace(record.parts["scheduler"], digest="other")}
    write_record(workspace.root / "data/base/scheduler.json", parts, {})
    assert weights_fingerprint(params) != digest


def test_epochs_visit_every_image_that_often(workspace):
    run(workspace.params(steps=None, epochs=2, gradient_accumulation=3, lr_schedule={}))
    ledger = pq.read_table(workspace.output / "ledger.parquet").to_pydict()
    assert set(ledger["num_visits"]) == {2}
    assert (
        json.loads((workspace.output / "summary.json").read_text())["steps"] == 3
    )  # 8 micro-batches


def test_an_epoch_has_every_item_as_often_as_it_repeats_and_the_ledger_adds_up_resolutions(
    make_workspace,
):
    workspace = make_workspace(repeats=(1, 3, 2), scales=(1, 2), num_variants=2)
    run(workspace.params(steps=None, epochs=2, lr_schedule={}))
    ledger = pq.read_table(workspace.output / "ledger.parquet").to_pydict()
    visits = dict(zip(ledger["sample_id"], ledger["num_visits"], strict=True))
    assert visits == {f"{i:020x}": 2 * 2 * (1, 3, 2)[i % 3] for i in range(4, 19)}
    summary = json.loads((workspace.output / "summary.json").read_text())
    assert summary["num_images"] == 15
    assert summary["steps"] == 2 * sum(-(-visits // 4) for visits in (16, 14, 16, 14))


def test_items_are_named_by_their_sample_and_other_resolutions_say_so(make_workspace):
    workspace = make_workspace(scales=(1, 2), num_images=7)
    params = workspace.params()
    samples = create_trainer(params).batches.samples
    ids = [f"{i:020x}" for i in range(4, 7)]
    assert samples.sample_ids == ids
    assert samples.names == [name for i in ids for name in (i, f"{i}@32")]
    samples = create_trainer(replace(params, resolution=32)).batches.samples
    assert samples.names == [name for i in ids for name in (f"{i}@16", i)]
    assert weights_fingerprint(params) != weights_fingerprint(replace(params, resolution=32))


def test_the_only_resolution_of_a_sample_is_not_in_its_name(workspace):
    samples = create_trainer(replace(workspace.params(), resolution=999)).batches.samples
    assert samples.names == samples.sample_ids


def test_validation_ignores_repeats_and_weights(workspace):
    losses = []
    for repeats, weight in [(1, 1.0), (4, 0.5)]:
        given = {"repeats": repeats, "weight": weight}
        workspace.write_latents([row | given for row in workspace.latents()])
        trainer = create_trainer(workspace.params())
        assert set(trainer.batches.samples.repeats) == {repeats}
        losses.append(trainer.validation.measure(trainer.state))
    assert losses[0] == losses[1]


def test_validation_takes_the_first_variant_of_each_picture_at_all_its_resolutions(make_workspace):
    trainer = create_trainer(make_workspace(scales=(1, 2), num_variants=3).params())
    network, seen = trainer.state.model.denoiser.network, []
    network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["hidden_states"].shape), with_kwargs=True
    )
    row = trainer.validation.measure(trainer.state)
    pieces = [piece for piece in trainer.validation._pieces() if piece[1] == 0]
    batches = [trainer.validation._batch(*piece) for piece in pieces]
    assert sorted(name for batch in batches for name in batch.names) == [
        name for i in range(3) for name in (f"{i:020x}", f"{i:020x}@32")
    ]
    crops = [left for batch in batches for left in batch.conditions["sizes"][:, 3].tolist()]
    assert set(crops) == {0}
    assert sum(shape[0] for shape in seen) == 2 * 6  # times, items
    assert row.loss == pytest.approx(sum(row.by_t) / 2)


def test_batch_sizes_hold_for_the_buckets_of_their_resolution(workspace):
    sizes = [{"resolution": 16, "batch_size": 7}]
    trainer = create_trainer(workspace.params(batch_size=2, batch_sizes=sizes))
    parts = trainer.batches.order.epoch(0)
    by_bucket = {
        name: max(len(part.items) for part in parts if part.items[0] in items)
        for name, items in trainer.batches.samples.buckets.items()
    }
    assert by_bucket == {"16x16": 4, "32x16": 2}  # 8 pictures in two, and 7 in four


def test_pictures_other_than_targets_are_refused(workspace):
    rows = workspace.latents()
    workspace.write_latents([*rows, rows[-1] | {"role": "reference"}])
    with pytest.raises(ValueError, match=r"role 'reference', .* set data\.references to \[\]"):
        run(workspace.params())


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (
            "vae",
            r"latents.parquet was written by the encoder '\w{16}', but .*vae.json names '\w{16}'",
        ),
        ("text_encoder", r"prompts.parquet was written by the encoder '\w{16}'"),
    ],
)
def test_rows_of_another_base_are_refused(workspace, component, message):
    workspace.write_encoder(component, "other")
    with pytest.raises(ValueError, match=message):
        run(workspace.params())


def test_rows_of_another_family_are_refused(workspace):
    with pytest.raises(ValueError, match=r"for the family 'flux2', but model.type is 'sdxl'"):
        run(replace(workspace.params(), family="sdxl"))


def test_a_dataset_without_validation_images_is_refused(make_workspace):
    workspace = make_workspace(num_images=3, num_validation=0)
    with pytest.raises(ValueError, match=r"raise data\.validation_fraction"):
        run(workspace.params())


def test_a_method_that_is_not_there_is_refused(workspace, monkeypatch):
    monkeypatch.setattr("stages.train.stage.METHODS", {"full_finetune": None})
    with pytest.raises(ValueError, match=r"training\.method: 'lora' is not available"):
        run(workspace.params(method="lora"))


def test_mixed_precision_trains_nearly_the_same(workspace, forks):
    params, losses = workspace.params(steps=2, log_every=1), []
    for precision in ["no", "bf16"]:
        child = forks.Process(target=run, args=(replace(params, mixed_precision=precision),))
        child.start()
        child.join()
        assert child.exitcode == 0
        losses.append(read_csv(workspace.output / "curves/loss.csv")[1][-1][1])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_who_comes_later_writes_later(workspace, forks, capsys):
    first, second = workspace.params(steps=60), workspace.params(steps=1, lr_schedule={})
    child = forks.Process(target=run, args=(first,))
    child.start()
    while not any((workspace.store / "checkpoints").glob("*/step-*")):
        assert child.is_alive()
        time.sleep(0.001)
    run(second)
    assert f"waiting for process {child.pid}, which is training into" in capsys.readouterr().out
    assert json.loads((workspace.output / "summary.json").read_text())["steps"] == 1
    child.join()
    assert child.exitcode == 0


def test_a_last_step_without_a_finite_loss_writes_nothing(workspace):
    trainer = create_trainer(workspace.params(steps=3))
    predict, state = trainer.state.model.denoiser.predict, trainer.state
    state.model.denoiser.predict = lambda *of: predict(*of) * (torch.nan if state.step == 2 else 1)
    with pytest.raises(ValueError, match="not finite since step 3"):
        trainer.fit()
    assert not workspace.output.exists()


def test_divergence_stops_training_and_spares_the_good_checkpoint(workspace):
    params = workspace.params(checkpoint={"every": 1, "keep": 50}, log_every=1)
    trainer = create_trainer(params)
    predict, calls = trainer.state.model.denoiser.predict, []

    def breaks_down(noisy, t, *rest):
        calls.append(t)
        prediction = predict(noisy, t, *rest)
        return prediction * torch.nan if trainer.state.step >= 5 else prediction

    trainer.state.model.denoiser.predict = breaks_down
    with pytest.raises(ValueError, match="not finite since step 6, which trained on samples 0"):
        trainer.fit()
    assert trainer.state.step == 8
    assert max(trainer.checkpoints.folder.glob("step-*")).name == "step-00000005"
    assert not workspace.output.exists()


def test_finished_trainings_beyond_the_newest_few_are_forgotten(workspace, monkeypatch):
    monkeypatch.setattr("stages.train.checkpoints.KEPT_TRAININGS", 1)
    for seed in range(3):
        run(replace(workspace.params(steps=1, lr_schedule={}), seed=seed))
    left = [path for path in (workspace.store / "checkpoints").iterdir() if path.is_dir()]
    assert len(left) == 2
