"""Where bars and points stand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.report_dataset.charts import BARS, POINTS, histogram, scatter

LENGTHS = st.dictionaries(st.integers(0, 2000), st.integers(1, 10_000), min_size=1, max_size=40)
SIDES = st.integers(1, 20_000)


@given(LENGTHS, st.integers(1, 1200))
def test_a_histogram_shows_every_caption_and_no_bar_both_sides_of_the_limit(
    lengths: dict[int, int], limit: int
) -> None:
    chart = histogram(lengths.items(), limit)
    assert sum(bar.count for bar in chart.bars) == sum(lengths.values())
    for bar in chart.bars:
        inside = sum(n for length, n in lengths.items() if bar.first <= length <= bar.last)
        assert inside == bar.count
        assert bar.is_over == (bar.first > limit)
        assert bar.is_over == (bar.last > limit)
    assert len(chart.bars) <= BARS + 1
    assert max(bar.height for bar in chart.bars) == 100


@given(LENGTHS, st.integers(1, 1200))
def test_the_limit_stands_between_the_bars_that_fit_and_those_that_do_not(
    lengths: dict[int, int], limit: int
) -> None:
    chart = histogram(lengths.items(), limit)
    if chart.limit_at is None:
        assert max(lengths) < limit
    else:
        fitting = sum(not bar.is_over for bar in chart.bars)
        assert abs(chart.limit_at - 100 * fitting / len(chart.bars)) < 1e-6


def test_no_captions_give_an_empty_histogram() -> None:
    assert sum(bar.count for bar in histogram([], 75).bars) == 0


@given(
    st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=30),
    st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5),
)
def test_points_lie_in_the_chart_and_stand_for_all_pictures(
    sizes: list[tuple[int, int]], buckets: list[tuple[int, int]]
) -> None:
    chart = scatter(sizes, buckets)
    assert sum(point.count for point in chart.points) == len(sizes)
    for point in (*chart.points, *chart.buckets):
        assert 0 < point.x < 100
        assert 0 < point.y < 100


def test_many_sizes_become_few_points() -> None:
    sizes = [(1000 + 7 * i % 3001, 500 + 11 * i % 2003) for i in range(10_000)]
    chart = scatter(sizes, [(1024, 1024)])
    assert len(chart.points) <= POINTS
    assert sum(point.count for point in chart.points) == 10_000
