"""What became of every file of the dataset, added up and held against the tables."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.report_dataset.inputs import Inputs, Row
from stages.tables import FATE_OF_SPLIT, FATES

GOES_ON = tuple(FATE_OF_SPLIT.values())
NAMED = 8  # files that are named for each reason
ELLIPSIS = "…"
NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Reason:
    """Files that one stage left out for one reason."""

    fate: str  # "excluded" | "quarantined"
    text: str  # numbers in which they differ are left out
    files: Sequence[tuple[str, str]]  # path and its own reason, sorted

    @property
    def named(self) -> Sequence[tuple[str, str]]:
        """The first of the files."""
        return self.files[:NAMED]


@dataclass(frozen=True)
class Step:
    """The ledger of one stage, added up."""

    stage: str
    counts: Mapping[str, int]  # rows by fate, one of FATES each
    reasons: Sequence[Reason]  # most files first

    @property
    def total(self) -> int:
        """Files (ingest) or samples (later stages) that the stage decided on."""
        return sum(self.counts.values())

    @property
    def going_on(self) -> int:
        """Those that it let pass."""
        return sum(self.counts[fate] for fate in GOES_ON)


@dataclass(frozen=True)
class Accounts:
    """The fate of every file after all stages, and how it came to that."""

    steps: Sequence[Step]
    files: Mapping[str, int]  # every file once, by its last fate
    samples: Mapping[str, int]  # those that a bucket took, by fate: "kept" | "validation"

    @property
    def num_files(self) -> int:
        """All files of the dataset."""
        return sum(self.files.values())

    @property
    def lent(self) -> Mapping[str, int]:
        """Files that belong to a sample beside its target, by fate."""
        return {fate: self.files[fate] - self.samples[fate] for fate in GOES_ON}


def balance(inputs: Inputs) -> Accounts:
    """Follow every file through the ledgers.

    Raises:
        ValueError: The ledgers and tables contradict each other.
    """
    for stage, rows in inputs.ledgers.items():
        _hold_rows(stage, rows)
    (first, files), *later = inputs.ledgers.items()
    _same(f"{first} let pass", _passed(files), "data/images.parquet holds", _paths(inputs.images))
    before, expected = "data/images.parquet has targets", _paths(inputs.targets)
    for stage, rows in later:
        _same(before, expected, f"{stage} decided on", _paths(rows))
        before, expected = f"{stage} let pass", _passed(rows)
    bucketed = _paths(row for row in inputs.buckets if row["role"] == "target")
    _same(before, expected, "data/buckets.parquet has targets", bucketed)
    if inputs.ingest["pictures"] != len(inputs.targets):
        raise ValueError(
            _contradiction(
                f"data/reports/ingest.json counts {inputs.ingest['pictures']} pictures, but "
                f"data/images.parquet has {len(inputs.targets)} targets"
            )
        )
    last = later[-1][1]
    paths = {row["path"] for row in files}
    return Accounts(
        [_step(stage, rows, paths) for stage, rows in inputs.ledgers.items()],
        _complete(Counter(_last_fates(inputs).values())),
        _complete(Counter(row["fate"] for row in last if row["fate"] in GOES_ON)),
    )


def _last_fates(inputs: Inputs) -> dict[str, str]:
    """Give every file the fate of the sample it belongs to, as the last stage decided.

    Of several samples that use a file, the best fate counts, but a target that goes on has its own.
    """
    of_sample: dict[str, str] = {}
    for rows in list(inputs.ledgers.values())[1:]:
        of_sample |= {row["sample_id"]: row["fate"] for row in rows}
    uses: defaultdict[str, list[str]] = defaultdict(list)
    own = {}
    for row in inputs.images:
        fate = of_sample[row["sample_id"]]
        uses[row["path"]].append(fate)
        if row["role"] == "target" and fate in GOES_ON:
            own[row["path"]] = fate
    found = {}
    for row in next(iter(inputs.ledgers.values())):
        path, fate = row["path"], row["fate"]
        if fate in GOES_ON:
            fate = own.get(path) or min(uses[path], key=FATES.index)
        found[path] = fate
    return found


def _hold_rows(stage: str, rows: Sequence[Row]) -> None:
    names = Counter(row["path"] for row in rows)
    if twice := [path for path, times in names.items() if times > 1]:
        raise ValueError(_contradiction(f"the ledger of {stage} lists {twice[0]!r} twice"))
    for row in rows:
        if row["fate"] not in FATES or (row["fate"] in GOES_ON) != (not row["reason"]):
            raise ValueError(
                _contradiction(
                    f"the ledger of {stage} gives {row['path']!r} the fate {row['fate']!r} with "
                    f"the reason {row['reason']!r}"
                )
            )


def _same(first: str, left: Collection[str], second: str, right: Collection[str]) -> None:
    if differing := sorted({*left} ^ {*right}):
        raise ValueError(
            _contradiction(
                f"{first}: {len(left)} pictures, but {second}: {len(right)}, and "
                f"{differing[0]!r} is in one of them only"
            )
        )


def _contradiction(what: str) -> str:
    return f"{what}: the sums do not agree, so the page is not made; run `dvc repro`"


def _passed(rows: Iterable[Row]) -> set[str]:
    return _paths(row for row in rows if row["fate"] in GOES_ON)


def _paths(rows: Iterable[Row]) -> set[str]:
    return {row["path"] for row in rows}


def _complete(counts: Mapping[str, int]) -> dict[str, int]:
    return {fate: counts.get(fate, 0) for fate in FATES}


def _step(stage: str, rows: Sequence[Row], paths: Collection[str]) -> Step:
    alike: defaultdict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        if row["fate"] not in GOES_ON:
            says = NUMBER.split(_without_paths(row["reason"], paths))[::2]
            alike[(row["fate"], *says)].append((row["path"], row["reason"]))
    reasons = [
        Reason(fate, in_common([_without_paths(why, paths) for _, why in files]), sorted(files))
        for (fate, *_), files in alike.items()
    ]
    reasons.sort(key=lambda reason: (-len(reason.files), reason.fate, reason.text))
    return Step(stage, _complete(Counter(row["fate"] for row in rows)), reasons)


def _without_paths(reason: str, paths: Collection[str]) -> str:
    """Leave out the names of files, so that what is said of many reads alike."""
    words = (ELLIPSIS if word.rstrip(":,") in paths else word for word in reason.split(" "))
    return " ".join(words)


def in_common(reasons: Sequence[str]) -> str:
    """Return the text of reasons that differ in their numbers at most, without these."""
    parts = zip(*(NUMBER.split(reason) for reason in reasons), strict=True)
    return "".join(part[0] if len({*part}) == 1 else ELLIPSIS for part in parts)
