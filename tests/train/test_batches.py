"""What a step trains on depends on the seed and the step alone, whatever else is in the batch."""

import operator

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.params.objective import Objective
from stages.randomness import generator
from stages.train.batches import Batches, Prefetch
from stages.train.objectives import FlowMatching
from stages.train.order import Order
from stages.train.samples import Samples
from stages.train.sources import Stored

NAMES = [f"id{i}" for i in range(13)]


class Latents:
    """Stored rows whose values are the number of their item and, of the last column, their own."""

    def __init__(self, has_variance=True):
        self.has_variance = has_variance

    def take(self, names):
        items, variants = np.array([name.split("/") for name in names], np.float32).T
        mean = np.broadcast_to(items[:, None, None, None], (len(names), 2, 3, 4)).copy()
        mean[..., -1] += variants[:, None, None]
        return {"mean": mean} | (
            {"logvar": np.full_like(mean, np.log(0.25))} if self.has_variance else {}
        )


class Prompts:
    """Stored rows of captions: their lengths."""

    def take(self, captions):
        return {"context": np.array([[len(caption)] for caption in captions], np.float32)}


def samples(num_latents=1, num_captions=1, has_variance=True):
    """Thirteen items of three buckets; of a caption's variants, each is one letter longer."""
    rows = [(item, variant) for item in range(13) for variant in range(num_latents)]
    return Samples(
        sample_ids=NAMES,
        sample_of=np.arange(13),
        names=NAMES,
        captions=[["caption" + "x" * n for n in range(num_captions)]] * 13,
        rows=[range(item * num_latents, (item + 1) * num_latents) for item in range(13)],
        buckets={"wide": np.arange(0, 7), "high": np.arange(7, 12), "rare": np.arange(12, 13)},
        repeats=np.ones(13, np.int64),
        weights=np.arange(13, dtype=np.float32),
        prior=np.zeros(13, np.bool_),
        row_names=[f"{item}/{variant}" for item, variant in rows],
        sizes=np.array([[item, variant, 0, 0, 0, 0] for item, variant in rows], np.int32),
        latent_rows=Stored(Latents(has_variance)),
        prompt_rows=Prompts(),
    )


def batches(
    caption_dropout=0.0,
    posterior="mean",
    batch_size=3,
    seed=0,
    objective=FlowMatching(Objective()),
    num_tokens=operator.mul,
    **of_samples,
):
    of = samples(**of_samples)
    sizes = dict.fromkeys(of.buckets, batch_size)
    order = Order(of.buckets, of.repeats, sizes, 1, seed, None)
    return Batches(of, order, objective, caption_dropout, posterior, seed, num_tokens)


def visits(of, epochs):
    """What every item got at each of its visits, in their order, by name."""
    found = {}
    for step in range(epochs * of.order.epoch_length):
        for batch in of.at(step):
            parts = {**vars(batch), **batch.conditions}
            tensors = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
            for place, name in enumerate(batch.names):
                got = {column: values[place] for column, values in tensors.items()}
                found.setdefault(name, []).append(got)
    return found


def assert_equal(visits, others):
    for visit, other in zip(visits, others, strict=True):
        assert visit.keys() == other.keys()
        assert all(torch.equal(visit[column], other[column]) for column in visit)


@pytest.mark.parametrize("posterior", ["mean", "sample"])
def test_all_of_a_visit_is_the_same_whatever_its_neighbours(posterior):
    given = {"caption_dropout": 0.3, "posterior": posterior, "num_latents": 2, "num_captions": 3}
    few, many = (visits(batches(batch_size=size, **given), 4) for size in (2, 13))
    assert few.keys() == many.keys() == set(NAMES)
    for name in NAMES:
        assert_equal(few[name], many[name])


def geometry(visit):
    return int(visit["sizes"][1])


def caption(visit):
    return int(visit["context"]) - len("caption")


@pytest.mark.parametrize(("variant", "count"), [(geometry, 3), (caption, 4)])
def test_visits_take_every_variant_once_in_a_drawn_order_before_any_again(variant, count):
    taken = {
        name: [variant(visit) for visit in of]
        for name, of in visits(batches(num_latents=3, num_captions=4), 24).items()
    }
    rounds = [
        tuple(of[start : start + count]) for of in taken.values() for start in range(0, 24, count)
    ]
    assert {tuple(sorted(of)) for of in rounds} == {tuple(range(count))}
    assert len(set(rounds)) > count  # orders differ between rounds and items
    assert len({tuple(of) for of in taken.values()}) == len(taken)


def test_the_variants_of_geometry_and_caption_are_drawn_apart():
    of = visits(batches(num_latents=2, num_captions=2), 40)
    pairs = {(geometry(visit), caption(visit)) for visit in of["id0"]}
    assert pairs == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_the_variants_change_with_the_seed():
    some, others = (visits(batches(num_latents=4, seed=seed), 8) for seed in (0, 1))
    assert [geometry(v) for v in some["id0"]] != [geometry(v) for v in others["id0"]]


def test_a_variants_latents_stay_with_its_sizes():
    for name, of in visits(batches(num_latents=3), 6).items():
        for visit in of:
            assert visit["sizes"][0] == visit["latents"][0, 0, 0] == int(name[2:])
            assert visit["latents"][0, 0, -1] == int(name[2:]) + geometry(visit)


def test_variants_change_neither_noise_nor_times_nor_which_captions_are_dropped():
    plain = visits(batches(caption_dropout=0.4), 3)
    varied = visits(batches(caption_dropout=0.4, num_latents=3, num_captions=2), 3)
    for name in NAMES:
        for one, other in zip(plain[name], varied[name], strict=True):
            assert torch.equal(one["noise"], other["noise"])
            assert torch.equal(one["t"], other["t"])
            assert (one["context"] == 0) == (other["context"] == 0)


def test_weights_stay_with_their_items():
    for name, of in visits(batches(), 1).items():
        assert of[0]["weights"] == int(name[2:])


def test_a_visit_draws_what_it_drew_in_earlier_versions():
    for name, of in visits(batches(seed=5), 2).items():
        for number, visit in enumerate(of):
            random = generator(5, name, number)
            uniform = torch.tensor([random.random()], dtype=torch.double)
            t = FlowMatching(Objective()).times(uniform, 1)
            random.random()  # of the caption's dropout
            assert visit["t"] == t.float()
            assert visit["noise"].numpy().tobytes() == random.standard_normal(24, "f4").tobytes()


def test_the_mean_of_the_posterior_is_the_same_at_every_visit():
    for name, of in visits(batches(), 2).items():
        assert all((visit["latents"] == int(name[2:])).all() for visit in of)


def test_a_draw_from_the_posterior_has_its_mean_and_deviation_and_belongs_to_the_visit():
    deviations = []
    for name, of in visits(batches(posterior="sample"), 20).items():
        drawn = torch.stack([visit["latents"] for visit in of])
        assert len(torch.unique(drawn.flatten(1), dim=0)) == 20
        deviations.append(drawn - int(name[2:]))
    assert abs(torch.stack(deviations).mean()) < 0.02
    assert abs(torch.stack(deviations).std() - 0.5) < 0.01  # the root of exp(logvar)


def test_drawing_from_the_posterior_changes_neither_noise_nor_times():
    means, draws = visits(batches(), 1), visits(batches(posterior="sample"), 1)
    for name in NAMES:
        (mean,), (drawn,) = means[name], draws[name]
        assert torch.equal(mean["noise"], drawn["noise"])
        assert torch.equal(mean["t"], drawn["t"])
    deviations = torch.stack([draws[name][0]["latents"] - int(name[2:]) for name in NAMES])
    noise = torch.stack([draws[name][0]["noise"] for name in NAMES])
    correlation = torch.corrcoef(torch.stack([deviations.flatten(), noise.flatten()]))
    assert abs(correlation[0, 1]) < 0.2  # a draw is not the noise that hides it


def test_a_draw_from_rows_without_a_variance_is_refused():
    with pytest.raises(ValueError, match=r"training\.posterior: 'sample' given, but .* set 'mean'"):
        batches(posterior="sample", has_variance=False).at(0)
    assert batches(has_variance=False).at(0)


def test_each_visit_has_noise_of_its_own():
    drawn = torch.stack([visit["noise"] for of in visits(batches(), 2).values() for visit in of])
    assert len(torch.unique(drawn.flatten(1), dim=0)) == len(drawn) == 26
    assert abs(drawn.mean()) < 0.1
    assert abs(drawn.std() - 1) < 0.1


def test_captions_are_dropped_about_as_often_as_asked():
    dropped = [
        bool(visit["context"] == 0)
        for of in visits(batches(caption_dropout=0.3), 100).values()
        for visit in of
    ]
    assert 0.25 < sum(dropped) / len(dropped) < 0.35
    never = visits(batches(caption_dropout=0.0), 2)
    assert all(visit["context"] > 0 for of in never.values() for visit in of)


def test_prefetching_changes_nothing_and_reads_not_past_the_end():
    of, asked = batches(), []

    def at(step):
        asked.append(step)
        return of.at(step)

    with Prefetch(at, 5, torch.device("cpu")) as ahead:
        for step in range(2, 5):
            for one, other in zip(ahead.at(step), of.at(step), strict=True):
                assert one.names == other.names
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
