"""WebDataset shards: tar archives whose members of one name before the first dot are a sample."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stages.dataset.captions import captions_of, refuse_other_extension, refuse_picture_extension
from stages.dataset.columns import FOCAL_POINT, Columns, columns_of
from stages.dataset.files import stamp
from stages.dataset.form import Entry, Form, Listing
from stages.dataset.rows import captions_in, focal_point_in
from stages.dataset.tars import Archive, index, read_member
from stages.dataset.tree import Folder, is_hidden
from stages.pixels import SUFFIXES

JSON = ".json"


@dataclass
class Sample:
    """The members of a shard with one key, by what they are."""

    pictures: list[str] = field(default_factory=list)
    roles: dict[tuple[str, int, int], str] = field(default_factory=dict)  # see `_role`
    caption: str = ""
    row: str = ""
    others: list[str] = field(default_factory=list)


def list_shards(folder: Folder, shards: Sequence[str], form: Form) -> Listing:
    """List the pictures in tar archives; a damaged archive is an entry of its own with a problem.

    Raises:
        ValueError: A shard holds what nothing reads, or what cannot be meant.
    """
    refuse_picture_extension(form)
    entries: list[Entry] = []
    chosen = set(shards)
    aside = {path: why or "no shard" for path, why in folder.files.items() if path not in chosen}
    aside |= folder.aside
    for path in shards:
        if problem := folder.files[path]:
            entries.append(Entry(path, problem=problem))
            continue
        shard = _Shard(folder, path, form)
        entries += shard.entries()
        aside |= {f"{path}/{name}": why for name, why in shard.aside.items()}
        if shard.archive.problem:
            entries.append(Entry(path, problem=shard.archive.problem))
        elif not shard.archive.members:
            aside[path] = "an empty archive"
    return Listing(entries, aside)


class _Shard:
    def __init__(self, folder: Folder, path: str, form: Form) -> None:
        self.path, self.form = path, form
        self.ignored = {name.lower() for name in form.ignore_columns}
        self.place = os.path.join(folder.root, path)
        self.stamp = stamp(folder.root, path)
        self.archive: Archive = index(self.place, self.stamp)
        self.aside = dict(self.archive.aside)
        self.samples: dict[str, Sample] = {}
        for name in self.archive.members:
            self._sort(name)

    def entries(self) -> list[Entry]:
        """Make the entries of all samples, and set aside what belongs to none."""
        self._refuse_extension()
        rows = {key: self._row(sample.row) for key, sample in self.samples.items() if sample.row}
        found: dict[str, str] = {}
        for key, (row, _) in rows.items():
            for column in row:
                found.setdefault(column, f"{self.place}/{self.samples[key].row}")
        plain = replace(self.form, references=(), mask=None, condition=None)
        columns = columns_of(found, plain, self.place) if found else None
        entries = []
        for key, sample in self.samples.items():
            row, problem = rows.get(key, ({}, ""))
            entries += self._entries(sample, row, problem, columns)
            why = "neither a picture nor a caption" if sample.pictures else "without a picture"
            self.aside |= dict.fromkeys(sample.others, why)
            if not sample.pictures:
                texts = (sample.caption, sample.row)
                self.aside |= {name: "caption without a picture" for name in texts if name}
                self.aside |= {n: f"{r} without a picture" for (r, *_), n in sample.roles.items()}
        return entries

    def _sort(self, name: str) -> None:
        if is_hidden(name):
            self.aside[name] = "hidden file"
            return
        cut = name.find(".", name.rfind("/") + 1)
        key, extension = (name, "") if cut < 0 else (name[:cut], name[cut:].lower())
        sample = self.samples.setdefault(key, Sample())
        middle, suffix = os.path.splitext(extension)
        if extension in SUFFIXES:
            sample.pictures.append(name)
        elif extension == self.form.caption_extension.lower():
            self._once(sample.caption, name)
            sample.caption = name
        elif extension == JSON:
            self._once(sample.row, name)
            sample.row = name
        elif suffix not in SUFFIXES or middle[1:] in self.ignored:
            sample.others.append(name)
        else:
            role = self._role(name, middle[1:])
            self._once(sample.roles.get(role, ""), name)
            sample.roles[role] = name

    def _once(self, other: str, name: str) -> None:
        if other:
            raise ValueError(
                f"{self.place} holds {other!r} and {name!r}, which mean the same: keep one of them"
            )

    def _role(self, name: str, middle: str) -> tuple[str, int, int]:
        """Give role, place among the role's names, and number behind the name (-1 without one)."""
        for role, names in self.form.roles.items():
            for place, each in enumerate(names):
                number = r"(\d*)" if role == "reference" else "()"
                if match := re.fullmatch(re.escape(each.lower()) + number, middle):
                    return role, place, int(match[1] or -1)
        raise ValueError(
            f"{self.place}/{name} is a picture {middle!r}, which nothing reads: name it in "
            f"data.references, data.mask, data.condition or data.ignore_columns, or, if it is a "
            f"sample of its own, pack it under a name without dots"
        )

    def _refuse_extension(self) -> None:
        with_pictures = {key for key, sample in self.samples.items() if sample.pictures}
        captioned = {key for key, sample in self.samples.items() if sample.caption or sample.row}
        others = ((key, n[len(key) :]) for key, s in self.samples.items() for n in s.others)
        texts = (
            (key, extension)
            for key, extension in others
            if extension.lower() in (".txt", ".text", ".caption", ".cap") and key not in captioned
        )
        refuse_other_extension(self.place, with_pictures, captioned, texts, self.form)

    def _row(self, name: str) -> tuple[Mapping[str, Any], str]:
        try:
            row = json.loads(read_member(self.place, self.stamp, name).decode("utf-8-sig"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            return {}, f"{name} is not valid JSON"
        if not isinstance(row, dict):
            return {}, f"{name} is no JSON object"
        return row, ""

    def _entries(
        self, sample: Sample, row: Mapping[str, Any], problem: str, columns: Columns | None
    ) -> list[Entry]:
        captions, where = self._captions(sample.caption), f"{self.place}/{sample.row}"
        if not sample.pictures:
            return []
        text, caption_problem = captions
        if columns is not None and not problem:
            written, problem = captions_in(row, columns.captions, where)
            text += tuple(each for each in written if each not in text)
        roles, role_problem = self._roles(sample)
        return [
            Entry(
                f"{self.path}/{picture}",
                text,
                roles,
                focal_point=focal_point_in(row.get(FOCAL_POINT), where),
                problem=role_problem,
                caption_problem=caption_problem or problem,
            )
            for picture in sample.pictures
        ]

    def _captions(self, name: str) -> tuple[tuple[str, ...], str]:
        if not name:
            return (), ""
        try:
            text = read_member(self.place, self.stamp, name).decode("utf-8-sig")
        except UnicodeDecodeError:
            return (), f"its caption file {name} is not UTF-8"
        return captions_of(text, self.form.per_line), ""

    def _roles(self, sample: Sample) -> tuple[dict[str, tuple[str, ...]], str]:
        """Give the pictures of all roles in order, and say which one is missing."""
        roles: dict[str, tuple[str, ...]] = {}
        problem = ""
        for role, names in self.form.roles.items():
            mine = sorted(each for each in sample.roles if each[0] == role)
            roles[role] = tuple(f"{self.path}/{sample.roles[each]}" for each in mine)
            for place, name in enumerate(names):
                numbers = [number for _, at, number in mine if at == place]
                if not numbers:
                    problem = problem or f"it has no {role}: there is no .{name} picture"
                elif -1 not in numbers and numbers != list(
                    range(numbers[0], numbers[0] + len(numbers))
                ):
                    problem = problem or f"of its .{name} pictures one is missing: {numbers}"
        return roles, problem
