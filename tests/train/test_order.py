"""Every epoch visits each item as often as it repeats, whatever the sizes and the history."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.train.order import Order

BUCKETS = {"wide": np.arange(0, 7), "high": np.arange(7, 12), "rare": np.arange(12, 13)}
BATCH_SIZES = {"wide": 3, "high": 3, "rare": 3}
ONCE = np.ones(13, np.int64)
OFTEN = np.array([1, 1, 5, 1, 1, 1, 1, 2, 2, 2, 2, 3, 4])


def order(repeats=ONCE, accumulation=1, seed=0, epochs=None, batch_sizes=BATCH_SIZES):
    return Order(BUCKETS, repeats, batch_sizes, accumulation, seed, epochs)


@st.composite
def orders(draw):
    """Orders of one to three buckets of any sizes, with any repeats."""
    buckets, batch_sizes, repeats = {}, {}, []
    for name in draw(st.sampled_from(["a", "ab", "abc"])):
        of = draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))
        buckets[name] = np.arange(len(repeats), len(repeats) + len(of))
        batch_sizes[name] = draw(st.integers(1, 7))
        repeats += of
    accumulation, seed = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    return Order(buckets, np.array(repeats), batch_sizes, accumulation, seed, epochs=3)


def visits_of(parts):
    return Counter(
        visit
        for part in parts
        for visit in zip(part.items.tolist(), part.visits.tolist(), strict=True)
    )


@settings(deadline=None)
@given(orders())
def test_the_steps_of_the_epochs_make_every_visit_to_every_item_once(of):
    steps = of.num_steps(3)
    made = visits_of(part for step in range(steps) for part in of.at(step))
    wanted = [(item, visit) for item, r in enumerate(of.repeats) for visit in range(3 * r)]
    assert made == Counter(wanted)
    assert of.at(steps - 1)
    assert of.at(steps) == []


@settings(deadline=None)
@given(orders(), st.integers(0, 2))
def test_visits_of_an_epoch_are_numbered_in_the_order_in_which_they_come(of, epoch):
    seen = {}
    for part in of.epoch(epoch):
        for item, visit in zip(part.items.tolist(), part.visits.tolist(), strict=True):
            seen.setdefault(item, []).append(visit)
    for item, repeats in enumerate(of.repeats):
        assert seen[item] == list(range(epoch * repeats, (epoch + 1) * repeats))


@settings(deadline=None)
@given(orders())
def test_micro_batches_have_one_bucket_nearly_equal_sizes_and_each_item_once_where_that_can_be(of):
    sizes, parts = {}, of.epoch(0)
    for part in parts:
        (bucket,) = (name for name, items in of.buckets.items() if set(part.items) <= set(items))
        sizes.setdefault(bucket, []).append(len(part.items))
        for item, times in Counter(part.items.tolist()).items():
            assert times == 1 or of.repeats[item] > of.num_parts[bucket]
    for bucket, of_bucket in sizes.items():
        num_visits = of.repeats[of.buckets[bucket]].sum()
        assert sum(of_bucket) == num_visits
        assert max(of_bucket) - min(of_bucket) <= 1
        assert len(of_bucket) == of.num_parts[bucket]


@settings(deadline=None)
@given(orders(), st.integers(0, 40))
def test_visits_counts_what_the_steps_trained_on(of, steps):
    counted = Counter(int(i) for step in range(steps) for part in of.at(step) for i in part.items)
    assert of.visits(steps).tolist() == [counted[item] for item in range(len(of.repeats))]


@pytest.mark.parametrize("repeats", [ONCE, OFTEN])
def test_what_a_step_trains_on_does_not_depend_on_the_steps_asked_for_before(repeats):
    forth, back = order(repeats), order(repeats)
    ahead = [forth.at(step) for step in range(40)]
    for step in reversed(range(40)):
        for part, other in zip(back.at(step), ahead[step], strict=True):
            assert part.items.tolist() == other.items.tolist()
            assert part.visits.tolist() == other.visits.tolist()


@pytest.mark.parametrize("repeats", [ONCE, OFTEN])
def test_the_order_changes_with_epoch_and_seed(repeats):
    def flat(seed, epoch):
        return np.concatenate([part.items for part in order(repeats, seed=seed).epoch(epoch)])

    assert flat(0, 0).tolist() == flat(0, 0).tolist()
    assert flat(0, 0).tolist() != flat(0, 1).tolist()
    assert flat(0, 0).tolist() != flat(1, 0).tolist()


def test_repeated_items_meet_other_neighbours_each_time():
    of = Order({"a": np.arange(40)}, np.full(40, 2), {"a": 4}, 1, 0, None)
    parts = [frozenset(part.items.tolist()) for part in of.epoch(0)]
    assert len(set(parts)) == len(parts)


def test_without_repeats_the_order_is_the_one_of_earlier_versions():
    assert [part.items.tolist() for part in order().epoch(1)] == [
        [1, 2],
        [6, 0, 3],
        [12],
        [10, 7, 9],
        [8, 11],
        [5, 4],
    ]


def test_each_bucket_has_its_own_batch_size():
    of = order(batch_sizes={"wide": 7, "high": 2, "rare": 1})
    assert of.num_parts == {"wide": 1, "high": 3, "rare": 1}
    assert max(len(part.items) for part in of.epoch(0)) == 7
