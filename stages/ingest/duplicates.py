"""Pictures that are there twice, exactly or nearly, and those that are trained and validated on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stages.ingest.near import close_pairs, nearest, to_hashes
from stages.ingest.pictures import FLAT
from stages.ingest.samples import Sample


class Near(NamedTuple):
    """Two samples whose pictures look alike."""

    first: Sample
    second: Sample
    bits: int  # of 64 in which their perceptual hashes differ


def near_duplicates(samples: Sequence[Sample], bits: int) -> list[Near]:
    """List pairs of pictures that look alike; of equal ones each with the first only.

    Pictures that show nothing have no perceptual hash to compare: they are left out.
    """
    shown = [sample for sample in samples if sample.look.perceptual_hash != FLAT]
    hashes = to_hashes([sample.look.perceptual_hash for sample in shown])
    return [Near(shown[i], shown[j], k) for i, j, k in close_pairs(hashes, bits)]


def leaks(samples: Sequence[Sample], bits: int | None) -> dict[str, Near]:
    """Find the validation pictures that are trained on, too, or nearly.

    Args:
        samples: All that go on.
        bits: In which perceptual hashes of near duplicates may differ; None: only equal pictures.

    Returns:
        The path of each -> (the picture that is trained on, it, bits).
    """
    trained = [sample for sample in samples if sample.split == "train"]
    held_out = [sample for sample in samples if sample.split == "validation"]
    equal = {sample.look.content: sample for sample in reversed(trained)}
    found = {
        sample.entry.path: Near(equal[sample.look.content], sample, 0)
        for sample in held_out
        if sample.look.content in equal
    }
    if bits is None:
        return found
    trained = [sample for sample in trained if sample.look.perceptual_hash != FLAT]
    rest = [
        sample
        for sample in held_out
        if sample.entry.path not in found and sample.look.perceptual_hash != FLAT
    ]
    if trained and rest:
        hashes = to_hashes([sample.look.perceptual_hash for sample in rest])
        others = to_hashes([sample.look.perceptual_hash for sample in trained])
        for sample, place, count in zip(rest, *nearest(hashes, others), strict=True):
            if count <= bits:
                found[sample.entry.path] = Near(trained[place], sample, int(count))
    return found
