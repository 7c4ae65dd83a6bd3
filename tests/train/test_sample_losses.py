"""The losses of each sample: fair between times, exact across a restart, and telling."""

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from stages.train.sample_losses import SampleLosses
from stages.train.samples import Samples
from stages.train.stage import run


def of(names, losses, times):
    samples = SampleLosses()
    samples.add(names, losses, times)
    return samples


def ids(names):
    return {name: name.partition("@")[0] for name in names}


def test_means_are_over_the_visits_and_all_resolutions_of_a_sample():
    samples = of(["a", "b", "a@768", "a"], [1.0, 5.0, 3.0, 2.0], [0.1, 0.2, 0.3, 0.4])
    means = samples.by_sample(ids(samples.sums))
    assert means["a"].loss == pytest.approx(2.0)
    assert means["b"].loss == 5.0


def test_hard_times_do_not_look_like_bad_pictures():
    """The loss is ten times as high near data, where chance put some pictures more often."""
    random = np.random.default_rng(0)
    samples = SampleLosses()
    for _ in range(200):
        for name, often_hard in [("lucky", 0.2), ("usual", 0.5), ("unlucky", 0.8)]:
            t = 0.05 if random.random() < often_hard else 0.85
            samples.add([name], [(10.0 if t < 0.5 else 1.0) * random.uniform(0.9, 1.1)], [t])
    means = samples.by_sample(ids(samples.sums))
    assert means["unlucky"].loss > 2 * means["lucky"].loss
    for mean in means.values():
        assert mean.relative == pytest.approx(1.0, abs=0.03)


def test_an_early_visit_does_not_look_like_a_bad_picture():
    samples = SampleLosses()
    for step in range(20_000):
        samples.add(["early" if step < 10_000 else "late"], [2.0 if step < 10_000 else 0.5], [0.5])
    means = samples.by_sample(ids(samples.sums))
    assert means["early"].relative == pytest.approx(1.0, abs=1e-6)
    assert means["late"].relative == pytest.approx(1.0, abs=0.3)


def test_what_is_not_finite_is_left_out_and_every_time_has_a_place():
    samples = of(["a", "a", "b"], [float("nan"), 2.0, float("inf")], [0.0, 1.0, 0.5])
    assert samples.by_sample(ids("ab")) == {"a": (2.0, 1.0)}


def test_a_restart_loses_no_bit():
    random = np.random.default_rng(1)
    straight, halted = SampleLosses(), SampleLosses()
    for _ in range(30):
        names = [str(number) for number in random.integers(0, 9, 4)]
        losses, times = random.random((2, 4)).tolist()
        straight.add(names, losses, times)
        halted.add(names, losses, times)
        halted = SampleLosses.from_json(json.loads(json.dumps(halted.to_json())))
    assert halted == straight
    assert list(halted.sums) == list(straight.sums)
    assert SampleLosses.from_json(SampleLosses().to_json()) == SampleLosses()


def ledger(workspace) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(workspace.output / "ledger.parquet").to_pylist()
    return {row["sample_id"]: row for row in rows}


def test_a_mislabelled_picture_comes_out_on_top(make_workspace, monkeypatch):
    """Pictures of a caption have its colour, but one has that of another caption."""
    workspace = make_workspace(num_images=44, num_validation=4, weights=(1.0, 0.25))
    wrong, plain = 21, Samples.latents
    colours = np.random.default_rng(0).choice([-1.0, 1.0], (5, 16, 1, 1))

    def coloured(self, rows, visits=None):
        found = plain(self, rows, visits)
        numbers = [int(self.row_names[row][:20], 16) for row in rows]
        captions = [(number + 2 * (number == wrong)) % 5 for number in numbers]
        return {"mean": (colours[captions] + 0.1 * found["mean"]).astype(np.float32)}

    monkeypatch.setattr(Samples, "latents", coloured)
    run(
        workspace.params(
            steps=100,
            batch_size=8,
            caption_dropout=0.0,
            objective={"shift": 3.0},
            lr_schedule={},
            validation={"every": 1000, "images": 1},
            checkpoint={"every": 1000},
        )
    )
    rows = ledger(workspace)
    ranked = sorted(rows, key=lambda name: -rows[name]["relative_loss"])
    assert ranked[0] == f"{wrong:020x}"
    assert rows[ranked[0]]["relative_loss"] > 1.1 * rows[ranked[1]]["relative_loss"]


def test_a_sample_that_was_never_visited_has_no_loss(workspace):
    run(workspace.params(steps=1, lr_schedule={}))
    rows = ledger(workspace).values()
    assert {row["num_visits"] for row in rows} == {0, 1}
    for row in rows:
        assert (row["mean_loss"] is None) == (row["num_visits"] == 0)
        assert (row["relative_loss"] is None) == (row["num_visits"] == 0)
