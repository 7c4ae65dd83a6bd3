"""Each item trains with its own references, mask and condition, cut and mirrored as it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from stages.artifacts import read_table
from stages.rows.table import RowTable
from stages.tables import latent_name
from stages.train.batches import Batch, Batches
from stages.train.objectives import FlowMatching
from stages.train.order import Order
from stages.train.plan import micro_batch_sizes
from stages.train.samples import Manifests, Samples, open_samples
from stages.train.validation import Validation
from tests.train.conftest import RESOLUTION, Workspace

ALL = ("reference", "mask", "condition")


def opened(space: Workspace, roles=ALL) -> dict[str, Samples]:
    return open_samples(Manifests(), space.family, RESOLUTION, str(space.store), roles)


def batches_of(space: Workspace, samples: Samples, batch_size: int = 3) -> Batches:
    settings = space.params(batch_size=batch_size, steps=4).training
    sizes = micro_batch_sizes(samples.buckets, settings)
    order = Order(samples.buckets, samples.repeats, sizes, 1, 0, None)
    return Batches(samples, order, FlowMatching(settings.objective), 0.0, "mean", 0)


def epoch(space: Workspace, samples: Samples, epochs: int = 1) -> Iterator[Batch]:
    batches = batches_of(space, samples)
    for step in range(epochs * batches.order.epoch_length):
        yield from batches.at(step)


def stored(space: Workspace) -> dict[str, torch.Tensor]:
    """The first column of each row that the manifest names, by the row's name."""
    found = {}
    for row in space.latents():
        columns = RowTable.open(str(space.store), row["table"]).take([row["key"]])
        name = next(each for each in ("pixels", "mask", "mean") if each in columns)
        found[latent_name(row)] = torch.from_numpy(columns[name][0])
    return found


def expected(rows: dict[str, torch.Tensor], item: str, latents: torch.Tensor, role: str, index=0):
    """The row of a role with the place of the target whose latents these are."""
    sample, _, resolution = item.partition("@")
    begin = f"{sample}@{resolution or RESOLUTION}"
    (variant,) = (
        name.rpartition("/")[2]
        for name, values in rows.items()
        if name.startswith(f"{begin}/target0/") and torch.equal(values, latents)
    )
    return rows[f"{begin}/{role}{index}/{variant}"]


@pytest.mark.parametrize("family", ["flux2", "sdxl"])
def test_all_that_belongs_to_a_target_has_its_sample_resolution_and_variant(make_workspace, family):
    space = make_workspace(
        num_images=13,
        family=family,
        num_variants=2,
        scales=(1, 2),
        references=(1, 2),
        has_masks=True,
        has_conditions=True,
    )
    rows, seen = stored(space), set()
    for batch in epoch(space, opened(space)["train"], epochs=2):
        for place, item in enumerate(batch.names):
            target = batch.latents[place]
            for index, reference in enumerate(batch.references):
                wanted = expected(rows, item, target, "reference", index)
                assert torch.equal(reference[place], wanted)
            for role in ("mask", "masked"):
                assert torch.equal(getattr(batch, role)[place], expected(rows, item, target, role))
            wanted = expected(rows, item, target, "condition")
            scale = 255 if family == "sdxl" else 1
            torch.testing.assert_close(scale * batch.condition[place], wanted, rtol=1e-6, atol=0)
            seen.add((item, len(batch.references)))
    assert len(seen) == 18  # nine samples at two resolutions
    assert {count for _, count in seen} == {1, 2}


def test_pixels_and_masks_have_the_ranges_that_networks_take(make_workspace):
    space = make_workspace(family="sdxl", has_masks=True, has_conditions=True)
    batch = next(epoch(space, opened(space, ("mask", "condition"))["train"]))
    _, _, height, width = batch.latents.shape
    assert batch.mask.shape == (len(batch), 1, 2 * height, 2 * width)
    assert batch.condition.shape == (len(batch), 3, 2 * height, 2 * width)
    assert set(batch.mask.unique().tolist()) == {0.0, 1.0}
    assert 0 <= batch.condition.min() < batch.condition.max() <= 1


def test_a_batch_has_as_many_references_of_as_many_shapes_for_each_item(make_workspace):
    space = make_workspace(num_images=30, references=(1, 2, 3, 2, 3))
    samples = opened(space, ("reference",))["train"]
    counts = {}
    for batch in epoch(space, samples):
        for item in batch.names:
            counts.setdefault(item, set()).add(len(batch.references))
    numbers = {f"{i:020x}": {(1, 2, 3, 2, 3)[i % 5]} for i in range(4, 30)}
    assert counts == numbers
    assert {name.count("+") for name in samples.buckets} == {1, 2, 3}


def test_validation_sees_references_of_the_first_variant(make_workspace):
    space = make_workspace(num_variants=2, references=(2,), has_masks=True)
    samples = opened(space, ("reference", "mask"))["validation"]
    sizes = micro_batch_sizes(samples.buckets, space.params().training)
    rows, seen = stored(space), []
    validation = Validation(samples, None, 3, [0.5], sizes)
    for piece in validation._pieces():
        batch = validation._batch(*piece)
        for place, item in enumerate(batch.names):
            for index, reference in enumerate(batch.references):
                name = f"{item}@{RESOLUTION}/reference{index}/0"
                assert torch.equal(reference[place], rows[name])
            assert torch.equal(batch.mask[place], rows[f"{item}@{RESOLUTION}/mask0/0"])
            seen.append(item)
    assert len(seen) == 3


def test_references_change_neither_noise_nor_times(make_workspace):
    plain = make_workspace()
    before = list(epoch(plain, opened(plain, ())["train"]))
    assert all(batch.references == () and batch.mask is None for batch in before)
    by_item = {
        name: (batch.noise[place], batch.t[place])
        for batch in before
        for place, name in enumerate(batch.names)
    }
    edited = make_workspace(folder="edited", references=(1, 2))
    for batch in epoch(edited, opened(edited, ("reference",))["train"]):
        for place, name in enumerate(batch.names):
            assert torch.equal(batch.noise[place], by_item[name][0])
            assert batch.t[place] == by_item[name][1]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"references": (1,)}, r"'reference', .* set data\.references to \[\]"),
        ({"has_masks": True}, r"'mask', .* set data\.mask to null"),
        ({"has_conditions": True}, r"'condition', .* set data\.condition to null"),
    ],
)
def test_pictures_that_the_training_does_not_read_are_refused(make_workspace, given, key):
    space = make_workspace(**given)
    with pytest.raises(ValueError, match=rf"latents.parquet has rows of the role {key}"):
        opened(space, ())


@pytest.mark.parametrize("role", ALL)
def test_a_training_without_the_pictures_that_it_reads_is_refused(make_workspace, role):
    space = make_workspace()
    with pytest.raises(ValueError, match=rf"no row of the role '{role}', .* give data\.{role}"):
        opened(space, (role,))


def test_a_target_without_its_mask_is_named(make_workspace):
    space = make_workspace(has_masks=True)
    rows = space.latents()
    (lost,) = (row for row in rows if row["role"] == "mask" and row["sample_id"].endswith("7"))
    space.write_latents([row for row in rows if row is not lost])
    with pytest.raises(ValueError, match=r"'mask' for 1 rows of targets, first of sample '0+7'"):
        opened(space, ("mask",))
    assert read_table(Manifests().latents, "latents").num_rows == len(rows) - 1


def test_a_device_gets_every_picture_of_a_batch(make_workspace):
    space = make_workspace(references=(2,), has_masks=True, has_conditions=True)
    batch = next(epoch(space, opened(space)["train"])).to(torch.device("meta"))
    pictures = [*batch.references, batch.mask, batch.masked, batch.condition]
    assert {picture.device.type for picture in pictures} == {"meta"}
    assert np.prod([len(picture) for picture in pictures]) == len(batch) ** 5
