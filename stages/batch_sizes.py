"""Micro-batches by size of the picture: a small one leaves room for more of its kind."""

from __future__ import annotations

from collections.abc import Sequence

from stages.params.training import BatchSize


def batch_size_of(width: int, height: int, default: int, sizes: Sequence[BatchSize]) -> int:
    """Return how many pictures of a bucket a micro-batch has, at most.

    Args:
        width: Of the bucket, pixels.
        height: Of the bucket, pixels.
        default: `training.batch_size`, for buckets larger than all of `sizes`.
        sizes: `training.batch_sizes`; the smallest that the bucket's area fits into counts.
    """
    fitting = [size for size in sizes if width * height <= size.resolution**2]
    if not fitting:
        return default
    return min(fitting, key=lambda size: size.resolution).batch_size
