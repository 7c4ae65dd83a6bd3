from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.batch_sizes import batch_size_of
from stages.params.training import BatchSize

SIZES = [BatchSize(1024, 4), BatchSize(512, 16), BatchSize(768, 8)]


def test_the_smallest_resolution_that_a_bucket_fits_gives_its_batch_size() -> None:
    assert batch_size_of(512, 512, 1, SIZES) == 16
    assert batch_size_of(256, 1024, 1, SIZES) == 16  # of the area, not of a side
    assert batch_size_of(512, 513, 1, SIZES) == 8
    assert batch_size_of(1024, 1024, 1, SIZES) == 4
    assert batch_size_of(1024, 1025, 1, SIZES) == 1
    assert batch_size_of(8, 8, 3, []) == 3


@given(st.permutations(SIZES), st.integers(1, 2000), st.integers(1, 2000))
def test_the_order_of_the_entries_does_not_matter(
    sizes: list[BatchSize], width: int, height: int
) -> None:
    assert batch_size_of(width, height, 1, sizes) == batch_size_of(width, height, 1, SIZES)
