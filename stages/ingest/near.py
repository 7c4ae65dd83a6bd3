"""Find perceptual hashes that differ in few bits, without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

HASH_BITS = 64
MOST_PAIRS = 1_000_000  # at which the search ends: a dataset of one picture over and over
Hashes: TypeAlias = npt.NDArray[np.uint64]  # (N,)


class Pair(NamedTuple):
    """Two places of an array of hashes, the smaller first, and the bits in which they differ."""

    first: int
    second: int
    bits: int


def to_hashes(hex_digits: list[str]) -> Hashes:
    """Give 16 hex digits each as a number of 64 bits."""
    return np.frombuffer(bytes.fromhex("".join(hex_digits)), ">u8").astype(np.uint64)


def close_pairs(hashes: Hashes, bits: int) -> list[Pair]:
    """List the pairs of hashes that differ in `bits` or fewer, sorted; at most about MOST_PAIRS.

    Equal hashes count as a chain: each forms a pair with the first of its kind only, and only the
    first ones are compared with others. Two hashes within `bits` agree wholly in one of
    `bits + 1` bands (pigeonhole), so only those that share a band are compared.
    """
    distinct, firsts, which = np.unique(hashes, return_index=True, return_inverse=True)
    pairs = [
        Pair(int(first), int(place), 0)
        for place, first in enumerate(firsts[which])
        if first != place
    ][:MOST_PAIRS]
    edges = np.linspace(0, HASH_BITS, bits + 2).astype(int)
    bands = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    for number, (low, high) in enumerate(bands):
        for left, right in _sharing(distinct, _mask(low, high)):
            differing = distinct[left] ^ distinct[right]
            count = np.bitwise_count(differing)
            found = count <= bits
            for earlier in bands[:number]:  # in which these were compared already
                found &= (differing & _mask(*earlier)) != 0
            for i, j, k in zip(left[found], right[found], count[found], strict=True):
                ends = sorted((int(firsts[i]), int(firsts[j])))
                pairs.append(Pair(ends[0], ends[1], int(k)))
            if len(pairs) > MOST_PAIRS:
                return sorted(pairs)
    return sorted(pairs)


def _mask(low: int, high: int) -> np.uint64:
    return np.uint64(((1 << (high - low)) - 1) << low)


def _sharing(hashes: Hashes, mask: np.uint64) -> Iterator[tuple[npt.NDArray[np.intp], ...]]:
    """Yield all pairs of places whose hashes agree under `mask`, as pairs of arrays."""
    band = hashes & mask
    order = np.argsort(band, kind="stable")
    band = band[order]
    left = np.arange(len(band))
    for step in range(1, len(band)):
        left = left[left + step < len(band)]
        left = left[band[left] == band[left + step]]
        if not left.size:
            return
        yield order[left], order[left + step]


def nearest(hashes: Hashes, others: Hashes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8]]:
    """Give for each hash the place of the closest of `others` (one at least), and the bits."""
    places = np.empty(len(hashes), np.intp)
    bits = np.empty(len(hashes), np.uint8)
    for number, value in enumerate(hashes):
        distances = np.bitwise_count(others ^ value)
        places[number] = distances.argmin()
        bits[number] = distances[places[number]]
    return places, bits
