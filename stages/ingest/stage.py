"""Read a dataset as it comes: what can be used, and what became of every file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.artifacts import write_json, write_table
from stages.class_images import FOLDER, read_index
from stages.dataset.form import DatasetPart, Form, Listing
from stages.dataset.listing import list_dataset
from stages.ingest import duplicates, samples
from stages.ingest.outcome import Outcome, ledger_table, summary
from stages.ingest.pictures import Look, Opener, look_at
from stages.ingest.prior import with_prior
from stages.ingest.samples import Usable
from stages.ingest.seen import recall
from stages.params.data import Dataset
from stages.params.read import key
from stages.pixels import background_colour

NAMED = 10  # files that a message names


@dataclass(frozen=True)
class Params:
    """What the dataset is, how its pictures are opened, and which of them may be used."""

    train_path: str = key("data.train_path")
    datasets: Sequence[Dataset] = key("data.datasets")
    caption_extension: str = key("data.caption_extension")
    caption_columns: Sequence[str] = key("data.captions.columns")
    per_line: bool = key("data.captions.per_line")
    references: Sequence[str] = key("data.references")
    mask: str | None = key("data.mask")
    condition: str | None = key("data.condition")
    ignore_columns: Sequence[str] = key("data.ignore_columns")
    allow_outside: bool = key("data.allow_outside")
    background: str = key("data.background")
    max_pixels: int = key("data.max_pixels")
    validation_fraction: float = key("data.validation_fraction")
    exact_duplicates: str = key("data.exact_duplicates")  # "keep" | "exclude"
    near_duplicate_bits: int | None = key("data.near_duplicate_bits")
    leakage: str = key("data.leakage")  # "report" | "exclude"
    max_bad_fraction: float = key("data.max_bad_fraction")

    @property
    def form(self) -> Form:
        """Say how the dataset is to be read."""
        return Form(
            self.caption_extension,
            tuple(self.caption_columns),
            self.per_line,
            tuple(self.references),
            self.mask,
            self.condition,
            tuple(self.ignore_columns),
            self.allow_outside,
            [DatasetPart(d.path, d.repeats, d.weight, d.split) for d in self.datasets],
        )


@dataclass(frozen=True)
class Artifacts:
    """The pictures of the class in; those that can be used, the fate of every file, a summary."""

    images: Path = Path("data/images.parquet")
    ledger: Path = Path("data/ledger/ingest.parquet")
    summary: Path = Path("data/reports/ingest.json")
    seen: Path = Path(".dvc/tmp/diffbase/pictures")  # what is known of unchanged files; no output
    class_images: Path = FOLDER  # of DreamBooth's prior


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Open every picture that is not known yet, decide, and write the tables and the summary."""
    root = Path(params.train_path)
    background_colour(params.background)  # before anything is read
    seen = recall(root, artifacts.seen, params.background, params.max_pixels)
    listing = list_dataset(root, params.form, read_text=seen.read_text)
    listing = with_prior(listing, read_index(artifacts.class_images), artifacts.class_images)
    paths = dict.fromkeys(
        path
        for entry in listing.entries
        if not entry.problem
        for path in (entry.path, *(path for _, _, path in samples.others_of(entry)))
    )
    opener = Opener(root, params.background, params.max_pixels)
    looks = look_at(paths, opener, seen)
    seen.save()
    found = samples.usable(listing.entries, looks)
    collected = [entry for entry in listing.entries if not entry.prior]
    own = samples.usable(collected, looks)
    refuse_too_many(root, own, len(collected), params.max_bad_fraction)
    outcome = decide(listing, looks, found, params)
    write_table(artifacts.images, samples.images_table(outcome.samples, looks), "images")
    write_table(artifacts.ledger, ledger_table(outcome), "ledger")
    write_json(artifacts.summary, summary(outcome))
    print(told(outcome, artifacts.ledger))  # noqa: T201


def refuse_too_many(root: Path, found: Usable, total: int, allowed: float) -> None:
    """Raise when more pictures than `allowed` (a fraction), or all of them, cannot be used."""
    bad = found.quarantined
    if len(bad) <= allowed * total and found.samples:
        return
    raise ValueError(
        f"{root}: {len(bad)} of {total} pictures cannot be used, more than data.max_bad_fraction = "
        f"{allowed:g} allows: {named(bad)}; mend or remove them, or raise data.max_bad_fraction"
    )


def named(reasons: Mapping[str, str]) -> str:
    """Return the first names with their reasons."""
    shown = ", ".join(f"{path} ({why})" for path, why in list(reasons.items())[:NAMED])
    return shown + (f" and {len(reasons) - NAMED} more" if len(reasons) > NAMED else "")


def decide(listing: Listing, looks: Mapping[str, Look], found: Usable, params: Params) -> Outcome:
    """Choose the split, and leave out duplicates where that is asked for.

    Pictures of the class are trained on, and compared with nothing: the base has made them.

    Raises:
        ValueError: Nothing is left to train on.
    """
    bits = params.near_duplicate_bits
    of_class = [sample for sample in found.samples if sample.entry.prior]
    collected = [sample for sample in found.samples if not sample.entry.prior]
    going = samples.split(collected, params.validation_fraction)
    equal = samples.equal_samples(going)
    excluded: dict[str, str] = {}
    if params.exact_duplicates == "exclude":
        for first, *others in equal:
            reason = f"the same as {first.entry.path} (data.exact_duplicates is 'exclude')"
            excluded |= {sample.entry.path: reason for sample in others}
        going = [sample for sample in going if sample.entry.path not in excluded]
    near = [] if bits is None else duplicates.near_duplicates(going, bits)
    leaked = duplicates.leaks(going, bits)
    if params.leakage == "exclude":
        excluded |= {path: leak_reason(leak) for path, leak in leaked.items()}
        going = [sample for sample in going if sample.entry.path not in leaked]
    if not any(sample.split == "train" for sample in going):
        raise ValueError(
            f"{params.train_path}: all {len(going)} pictures are to be validated and none is left "
            "to train on: set split to 'train' or 'auto' for one of data.datasets"
        )
    return Outcome(
        listing,
        looks,
        samples.named(sorted([*going, *of_class], key=lambda sample: sample.place)),
        found.quarantined,
        excluded,
        equal,
        near,
        list(leaked.values()),
    )


def leak_reason(leak: duplicates.Near) -> str:
    """Say why a validation picture is left out."""
    is_equal = leak.first.look.content == leak.second.look.content
    how = "the same picture as" if is_equal else f"{leak.bits} of 64 bits from"
    return f"{how} {leak.first.entry.path}, which is trained on (data.leakage is 'exclude')"


def told(outcome: Outcome, where: Path) -> str:
    """Return the counts in a sentence, and what was not taken in a line for each such fate."""
    held_out = sum(sample.split == "validation" for sample in outcome.samples)
    bad, aside = outcome.quarantined, {**outcome.listing.aside, **outcome.excluded}
    lines = [
        f"{len(outcome.samples) - held_out} pictures to train on, {held_out} to validate, "
        f"{len(bad)} quarantined, {len(aside)} left aside, {len(outcome.near)} near duplicates, "
        f"{len(outcome.leaked)} validated like one trained on: see {where}"
    ]
    if bad:
        lines.append(f"quarantined: {named(bad)}")
    if aside:
        lines.append(f"left aside: {named(one_of_each_first(aside))}")
    return "\n".join(lines)


def one_of_each_first(reasons: Mapping[str, str]) -> dict[str, str]:
    """Order names so that a reason of one of them is not lost behind many of another reason."""
    turns: Counter[str] = Counter()
    placed = []
    for path, why in reasons.items():
        placed.append((turns[why], path))
        turns[why] += 1
    return {path: reasons[path] for _, path in sorted(placed, key=lambda each: each[0])}
