"""Pictures that are alike, as ingest found them, in groups to be shown side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.report_dataset.inputs import Inputs

GROUPS = 12  # of duplicates, near duplicates and leaks each, at most
OF_A_GROUP = 4  # pictures of exact duplicates, at most


@dataclass(frozen=True)
class Group:
    """Pictures that are alike."""

    paths: Sequence[str]  # those that are shown
    labels: Sequence[str]  # what each is
    total: int  # of the group
    bits: int | None  # of 64 in which the two differ; None: equal in all, captions too


@dataclass(frozen=True)
class Alike:
    """All groups of one kind."""

    groups: Sequence[Group]  # those that are shown
    total: int


def equal(inputs: Inputs) -> Alike:
    """Return the groups of samples that have everything in common."""
    groups = [
        Group(paths[:OF_A_GROUP], [""] * len(paths[:OF_A_GROUP]), len(paths), None)
        for paths in inputs.ingest["exact_duplicates"][:GROUPS]
    ]
    return Alike(groups, inputs.ingest["exact_duplicates_total"])


def near(inputs: Inputs) -> Alike:
    """Return the pairs of pictures that look alike, but for samples that are equal anyway."""
    group_of = {
        path: number
        for number, paths in enumerate(inputs.ingest["exact_duplicates"])
        for path in paths
    }
    listed = inputs.ingest["near_duplicates"]
    pairs = [
        Group(pair["paths"], ["", ""], 2, pair["bits"])
        for pair in listed
        if len({group_of.get(path, path) for path in pair["paths"]}) == 2
    ]
    total = inputs.ingest["near_duplicates_total"] - len(listed) + len(pairs)
    return Alike(pairs[:GROUPS], total)


def leaked(inputs: Inputs) -> Alike:
    """Return the pairs of a picture that is trained on and a validation picture like it."""
    groups = [
        Group([pair["train"], pair["validation"]], ["train", "validation"], 2, pair["bits"])
        for pair in inputs.ingest["leaked"][:GROUPS]
    ]
    return Alike(groups, inputs.ingest["leaked_total"])
