"""What samples a dataset holds: which pictures belong together, named and split by content."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from stages.dataset.form import Entry
from stages.ingest.pictures import Look
from stages.tables import IMAGES, ROLES

SAMPLE_ID_LENGTH = 20  # hex digits of the content


class Sample(NamedTuple):
    """A usable target with what belongs to it."""

    entry: Entry
    look: Look  # at the target
    others: tuple[str, ...]  # role, content, role, content, ... of the other pictures
    split: str = "train"  # or "validation"
    sample_id: str = ""

    @property
    def place(self) -> tuple[object, ...]:
        """What orders copies of a target: their paths only where all else is equal."""
        return self.look.content, self.entry.captions, self.others, self.entry.path


@dataclass(frozen=True)
class Usable:
    """The entries of a dataset by whether they can be used."""

    samples: Sequence[Sample]  # sorted by `Sample.place`
    quarantined: Mapping[str, str]  # path of the target -> why, sorted


def usable(entries: Sequence[Entry], looks: Mapping[str, Look]) -> Usable:
    """Put together the samples of which nothing is missing or broken."""
    samples, quarantined = [], {}
    for entry in entries:
        look = looks.get(entry.path, Look())
        problem = entry.problem or look.problem or entry.caption_problem
        if entry.roles and not problem:
            problem = _problem_of_others(entry, looks)
        if problem:
            quarantined[entry.path] = problem
        else:
            samples.append(Sample(entry, look, _contents_of_others(entry, looks)))
    return Usable(sorted(samples, key=lambda sample: sample.place), quarantined)


def others_of(entry: Entry) -> Iterable[tuple[str, int, str]]:
    """List (role, index, path) of the pictures that belong to a target, in the order of IMAGES."""
    for role in ROLES:
        for index, path in enumerate(entry.roles.get(role, ())):
            yield role, index, path


def _problem_of_others(entry: Entry, looks: Mapping[str, Look]) -> str:
    for role, _, path in others_of(entry):
        if problem := looks[path].problem:
            return f"its {role} {path}: {problem}"
    return ""


def _contents_of_others(entry: Entry, looks: Mapping[str, Look]) -> tuple[str, ...]:
    if not entry.roles:
        return ()
    named = ((role, looks[path].content) for role, _, path in others_of(entry))
    return tuple(text for pair in named for text in pair)


def split(samples: Sequence[Sample], validation_fraction: float) -> list[Sample]:
    """Say of each sample whether it is trained on: as its dataset says, else by content.

    Copies of a picture that are told to be trained on decide for those that are told nothing, and
    so do those that are told to be validated.
    """
    told: dict[str, str] = {}
    for sample in samples:
        if sample.entry.split != "auto" and told.get(sample.look.content) != "train":
            told[sample.look.content] = sample.entry.split
    undecided = {sample.look.content for sample in samples} - told.keys()
    held_out = validation_contents(undecided, validation_fraction, "train" in told.values())
    by_content = told | {c: "validation" if c in held_out else "train" for c in undecided}
    return [
        sample._replace(split=by_content[sample.look.content])
        if sample.entry.split == "auto"
        else sample._replace(split=sample.entry.split)
        for sample in samples
    ]


def validation_contents(
    contents: set[str], fraction: float, others_train: bool = False
) -> set[str]:
    """Choose what is never trained on: by content, so that copies of a picture stay together.

    A picture's place depends on its own content alone, except that one picture at least is
    chosen where there is a choice.

    Args:
        contents: Of the pictures to choose from.
        fraction: To choose, about.
        others_train: Whether there are others, which are trained on in any case.

    Raises:
        ValueError: Nothing would be left to train on.
    """
    if not fraction or len(contents) < 2:
        return set()
    held_out = {c for c in contents if int(c[:16], 16) < fraction * 16**16} or {min(contents)}
    if held_out == contents and not others_train:
        raise ValueError(
            f"data.validation_fraction: {fraction:g} leaves none of {len(contents)} different "
            f"pictures to train on: give a smaller one"
        )
    return held_out


def equal_samples(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Group samples that have the same picture, captions and others; only those of several."""
    groups: dict[tuple[object, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        *content, _ = sample.place
        groups[(*content, sample.split)].append(sample)
    return [group for group in groups.values() if len(group) > 1]


def named(samples: Sequence[Sample]) -> list[Sample]:
    """Give each sample its id; `samples` come sorted by `Sample.place`, the result by the id."""
    copies: Counter[str] = Counter()
    found = []
    for sample in samples:
        name = sample.look.content[:SAMPLE_ID_LENGTH]
        copy = copies[name]
        copies[name] += 1
        found.append(sample._replace(sample_id=f"{name}-{copy}" if copy else name))
    return sorted(found, key=lambda sample: sample.sample_id)


def images_table(samples: Sequence[Sample], looks: Mapping[str, Look]) -> pa.Table:
    """Return IMAGES of samples that are sorted by id."""
    rows: list[tuple[Any, ...]] = []  # a tuple a row in the order of the columns: dicts cost more
    for sample in samples:
        entry, look = sample.entry, sample.look
        said = (sample.split, entry.dataset, entry.repeats, entry.weight, entry.prior)
        focal = entry.focal_point or (None, None)
        rows.append((sample.sample_id, "target", 0, *_shown(entry.path, look), entry.captions))
        rows[-1] += (*said, *focal, look.perceptual_hash, look.notes)
        if not entry.roles:
            continue
        for role, index, path in others_of(entry):
            look = looks[path]
            rows.append((sample.sample_id, role, index, *_shown(path, look), ()))
            rows[-1] += (*said, None, None, look.perceptual_hash, look.notes)
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, kind.type) for column, kind in zip(columns, IMAGES, strict=True)],
        schema=IMAGES,
    )


def _shown(path: str, look: Look) -> tuple[str, str, int, int]:
    return look.content, path, look.width, look.height
