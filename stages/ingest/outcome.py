"""What became of a dataset: the fate of each file, and a summary of what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.dataset.form import Entry, Listing
from stages.ingest.duplicates import Near
from stages.ingest.pictures import Look
from stages.ingest.samples import Sample, others_of
from stages.tables import FATE_OF_SPLIT, FATES, LEDGER

MOST_LISTED = 1000  # entries of a list in the summary; its length is beside it


@dataclass(frozen=True)
class Outcome:
    """Everything that the stage decided."""

    listing: Listing
    looks: Mapping[str, Look]
    samples: Sequence[Sample]  # that go on, sorted by id
    quarantined: Mapping[str, str]  # path of a target -> why
    excluded: Mapping[str, str]  # path of a target -> why
    equal: Sequence[Sequence[Sample]]
    near: Sequence[Near]
    leaked: Sequence[Near]


def ledger_table(outcome: Outcome) -> pa.Table:
    """Return LEDGER: one row for each file of the dataset, sorted by path."""
    ids = {sample.entry.path: sample for sample in outcome.samples}
    fates = _Fates()
    for path, reason in outcome.listing.aside.items():
        fates.add(path, None, "excluded", reason)
    for entry in outcome.listing.entries:
        if sample := ids.get(entry.path):
            fate = FATE_OF_SPLIT[sample.split]
            fates.add(entry.path, sample.sample_id, fate, "")
            for _, _, path in others_of(entry) if entry.roles else ():
                fates.add(path, sample.sample_id, fate, "")
        else:
            _leave_out(entry, outcome, fates)
    rows = [(path, *fate) for path, fate in sorted(fates.found.items())]
    paths, names, decided, reasons = zip(*rows, strict=True)
    stages = ["ingest"] * len(rows)
    return pa.table(
        [pa.array(column) for column in (paths, pa.array(names, pa.string()), stages)]
        + [pa.array(decided), pa.array(reasons)],
        schema=LEDGER,
    )


class _Fates:
    """The fate of each file; of a picture that several samples use, the best one."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str | None, str, str]] = {}

    def add(self, path: str, sample_id: str | None, fate: str, reason: str) -> None:
        known = self.found.get(path)
        if known is None or FATES.index(fate) < FATES.index(known[1]):
            self.found[path] = (sample_id, fate, reason)


def _leave_out(entry: Entry, outcome: Outcome, fates: _Fates) -> None:
    """Give the pictures of a sample that does not go on their fates: the broken are to blame."""
    reason = outcome.quarantined.get(entry.path)
    if reason is None:
        fates.add(entry.path, None, "excluded", outcome.excluded[entry.path])
    else:
        fates.add(entry.path, None, "quarantined", reason)
    for _, _, path in others_of(entry):
        problem = outcome.looks.get(path, Look()).problem
        if problem:
            fates.add(path, None, "quarantined", problem)
        else:
            fates.add(path, None, "excluded", f"its target {entry.path} is left out")


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return what data/reports/ingest.json holds."""
    pictures = Counter(sample.entry.dataset for sample in outcome.samples)
    said = {e.dataset: (e.repeats, e.weight) for e in outcome.listing.entries}
    notes = Counter(
        note
        for path, look in sorted(outcome.looks.items())
        if look.notes
        for note in look.notes.split(", ")
    )
    return {
        "pictures": len(outcome.samples),
        "datasets": [
            {"path": path, "pictures": pictures[path], "repeats": repeats, "weight": weight}
            for path, (repeats, weight) in sorted(said.items())
        ],
        "notes": dict(notes),
        "quarantined": dict(Counter(outcome.quarantined.values()).most_common(MOST_LISTED)),
        "quarantined_total": len(outcome.quarantined),
        **_listed("exact_duplicates", [[s.entry.path for s in group] for group in outcome.equal]),
        **_listed("near_duplicates", [_looks_like(near) for near in outcome.near]),
        **_listed("leaked", [_leak(near) for near in outcome.leaked]),
    }


def _listed(name: str, found: list[Any]) -> dict[str, Any]:
    ordered = sorted(found, key=lambda each: str(each) if isinstance(each, list) else _rank(each))
    return {name: ordered[:MOST_LISTED], f"{name}_total": len(found)}


def _rank(pair: Mapping[str, Any]) -> str:
    return f"{pair['bits']:02d} {sorted(map(str, pair.values()))}"


def _looks_like(near: Near) -> dict[str, Any]:
    paths = sorted((near.first.entry.path, near.second.entry.path))
    return {"paths": paths, "bits": near.bits}


def _leak(near: Near) -> dict[str, Any]:
    return {
        "train": near.first.entry.path,
        "validation": near.second.entry.path,
        "bits": near.bits,
    }
