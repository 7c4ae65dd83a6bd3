"""What a step trains on depends on the seed and the step alone, and no sample is ever left out."""

from collections import Counter

import numpy as np
import pytest
import torch

from stages.params.training import Objective
from stages.train.batches import Batches, Order, Prefetch
from stages.train.objectives import FlowMatching
from stages.randomness import generator

BUCKETS = {"wide": np.arange(0, 7), "high": np.arange(7, 12), "rare": np.arange(12, 13)}


def order(batch_size=3, accumulation=1, seed=0, epochs=None):
    return Order(BUCKETS, batch_size, accumulation, seed, epochs)


class Rows:
    """Thirteen samples whose latents name them."""

    sample_ids = tuple(f"id{i}" for i in range(13))
    captions = tuple(f"caption {i}" for i in range(13))

    def latents(self, indices):
        mean = np.broadcast_to(indices[:, None, None, None], (len(indices), 2, 3, 4)).astype("f4")
        return {"mean": mean, "logvar": np.full_like(mean, np.log(0.25))}

    def conditions(self, indices, captions):
        context = torch.tensor([[float(len(caption))] for caption in captions])
        return {"context": context, "sizes": torch.from_numpy(indices)}


class MeansAlone(Rows):
    """The same of an autoencoder without a posterior."""

    def latents(self, indices):
        return {"mean": super().latents(indices)["mean"]}


def batches(caption_dropout=0.0, posterior="mean", rows=Rows, **of_order):
    objective = FlowMatching(Objective())
    seed = of_order.get("seed", 0)
    return Batches(rows(), order(**of_order), objective, caption_dropout, posterior, seed)


@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_every_epoch_visits_each_sample_once(accumulation):
    of = order(accumulation=accumulation, epochs=3)
    steps = of.num_steps(3)
    visited = Counter(
        (epoch, int(i)) for s in range(steps) for epoch, part in of.at(s) for i in part
    )
    assert visited == Counter((epoch, i) for epoch in range(3) for i in range(13))
    assert of.at(steps) == []


def test_a_batch_has_one_bucket_and_batches_of_a_bucket_are_of_nearly_equal_size():
    sizes = {}
    for part in order().epoch(0):
        (bucket,) = {name for name, of in BUCKETS.items() if set(part) <= set(of)}
        sizes.setdefault(bucket, []).append(len(part))
    assert {name: sorted(of) for name, of in sizes.items()} == {
        "wide": [2, 2, 3],
        "high": [2, 3],
        "rare": [1],
    }


def test_the_order_changes_with_epoch_and_seed_and_with_nothing_else():
    def flat(seed, epoch):
        return np.concatenate(order(seed=seed).epoch(epoch)).tolist()

    assert flat(0, 0) == flat(0, 0)
    assert flat(0, 0) != flat(0, 1)
    assert flat(0, 0) != flat(1, 0)
    forth, back = order(), order()
    ahead = [forth.at(step) for step in range(20)]
    for step in reversed(range(20)):
        for (epoch, part), (other_epoch, other) in zip(back.at(step), ahead[step], strict=True):
            assert epoch == other_epoch
            assert part.tolist() == other.tolist()


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("steps", [0, 1, 5, 6, 17])
def test_visits_counts_what_the_steps_trained_on(accumulation, steps):
    of = order(accumulation=accumulation)
    counted = Counter(int(i) for step in range(steps) for _, part in of.at(step) for i in part)
    assert +of.visits(steps) == counted


def test_noise_time_and_caption_of_a_visit_do_not_depend_on_its_neighbours():
    def by_sample(batch_size):
        of = batches(caption_dropout=0.5, batch_size=batch_size)
        made = [batch for step in range(of.order.epoch_length) for batch in of.at(step)]
        return {
            sample_id: (batch.noise[i], batch.t[i], batch.conditions["context"][i])
            for batch in made
            for i, sample_id in enumerate(batch.sample_ids)
        }

    few, many = by_sample(2), by_sample(13)
    assert few.keys() == many.keys() == set(Rows.sample_ids)
    for sample_id, numbers in few.items():
        for one, other in zip(numbers, many[sample_id], strict=True):
            assert torch.equal(one, other)


def drawn_latents(of, epochs):
    """The latents of every visit (epochs, 2, 3, 4), by sample."""
    found = {}
    for step in range(epochs * of.order.epoch_length):
        for batch in of.at(step):
            for sample_id, latents in zip(batch.sample_ids, batch.latents, strict=True):
                found.setdefault(sample_id, []).append(latents)
    return {sample_id: torch.stack(visits) for sample_id, visits in found.items()}


def test_the_mean_of_the_posterior_is_the_same_at_every_visit():
    for sample_id, visits in drawn_latents(batches(), 2).items():
        assert (visits == int(sample_id[2:])).all()


def test_a_draw_from_the_posterior_has_its_mean_and_deviation_and_belongs_to_the_visit():
    few = drawn_latents(batches(posterior="sample", batch_size=2), 20)
    many = drawn_latents(batches(posterior="sample", batch_size=13), 20)
    deviations = []
    for sample_id, visits in few.items():
        assert torch.equal(visits, many[sample_id])  # whatever its neighbours
        assert len(torch.unique(visits.flatten(1), dim=0)) == 20
        deviations.append(visits - int(sample_id[2:]))
    assert abs(torch.stack(deviations).mean()) < 0.02
    assert abs(torch.stack(deviations).std() - 0.5) < 0.01  # the root of exp(logvar)


def test_drawing_from_the_posterior_changes_neither_noise_nor_times():
    for mean, drawn in zip(batches().at(0), batches(posterior="sample").at(0), strict=True):
        assert mean.sample_ids == drawn.sample_ids
        assert torch.equal(mean.noise, drawn.noise)
        assert torch.equal(mean.t, drawn.t)
        correlation = torch.corrcoef(
            torch.stack([(drawn.latents - mean.latents).flatten(), drawn.noise.flatten()])
        )
        assert abs(correlation[0, 1]) < 0.3  # a draw is not the noise that hides it


def test_a_draw_from_rows_without_a_variance_is_refused():
    with pytest.raises(ValueError, match=r"training\.posterior: 'sample' given, but .* set 'mean'"):
        batches(posterior="sample", rows=MeansAlone).at(0)
    assert batches(rows=MeansAlone).at(0)


def test_sizes_stay_with_their_samples():
    for batch in batches(batch_size=13).at(0):
        assert batch.conditions["sizes"].tolist() == [int(name[2:]) for name in batch.sample_ids]


def test_each_visit_has_noise_of_its_own():
    of = batches(batch_size=13)
    noise = {}
    for step in range(2 * of.order.epoch_length):
        for batch in of.at(step):
            for sample_id, drawn in zip(batch.sample_ids, batch.noise, strict=True):
                noise.setdefault(sample_id, []).append(drawn)
    drawn = torch.stack([one for visits in noise.values() for one in visits]).flatten(1)
    assert len(drawn) == 26
    assert len(torch.unique(drawn, dim=0)) == 26
    assert abs(drawn.mean()) < 0.1
    assert abs(drawn.std() - 1) < 0.1


def test_captions_are_dropped_about_as_often_as_asked():
    of = batches(caption_dropout=0.3, batch_size=13)
    lengths = [
        length
        for step in range(100 * of.order.epoch_length)
        for batch in of.at(step)
        for length in batch.conditions["context"].flatten().tolist()
    ]
    assert 0.25 < lengths.count(0.0) / len(lengths) < 0.35
    never = batches(caption_dropout=0.0, batch_size=13)
    assert all((batch.conditions["context"] > 0).all() for batch in never.at(0))


def test_prefetching_changes_nothing_and_reads_not_past_the_end():
    of, asked = batches(), []

    def at(step):
        asked.append(step)
        return of.at(step)

    with Prefetch(at, 5, torch.device("cpu")) as ahead:
        for step in range(2, 5):
            for one, other in zip(ahead.at(step), of.at(step), strict=True):
                assert one.sample_ids == other.sample_ids
                assert torch.equal(one.noise, other.noise)
    assert asked == [2, 3, 4]


def test_an_error_of_the_reader_reaches_the_loop():
    def at(step):
        raise ValueError("row 3 is missing")

    with Prefetch(at, 5, torch.device("cpu")) as ahead, pytest.raises(ValueError, match="row 3"):
        ahead.at(0)


def test_a_generator_is_named_by_all_its_parts():
    names = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), ("validation", "a", 1)]
    assert len({generator(*name).random() for name in names}) == len(names)
    assert generator(0, "a", 1).random() == generator(0, "a", 1).random()
