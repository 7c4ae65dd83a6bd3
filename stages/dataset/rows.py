"""What the rows of a metadata table say of their pictures."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stages.dataset.columns import FOCAL_POINT, Columns
from stages.dataset.form import Entry, Form
from stages.dataset.paths import is_text, resolve
from stages.dataset.tree import Folder

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row]]  # each with its place, for messages


@dataclass(frozen=True)
class Reading:
    """A table that was opened: its columns, each with the first row that has it, and its rows."""

    found: Mapping[str, str]
    rows: Callable[[Columns], Rows]  # with the cells of these columns at least


def reading_of(rows: Sequence[tuple[str, Row]]) -> Reading:
    """Open a table that is in memory."""
    found: dict[str, str] = {}
    for place, row in rows:
        for name in row:
            found.setdefault(name, place)
    return Reading(found, lambda columns: iter(rows))


class Held(str):
    """Where in the table itself a picture lies, see `files.read_bytes`."""


@dataclass(frozen=True)
class Table:
    """A table of rows, and the folder whose pictures it lists."""

    path: str  # from the root
    folder: Folder
    form: Form
    columns: Columns

    def entry(self, row: Row, where: str) -> Entry:
        """Make an entry of a row.

        Args:
            row: Its cells; a picture is a path from the table's folder, or `Held`.
            where: The row, for messages.

        Raises:
            ValueError: A value cannot be meant.
        """
        path = self._path(row.get(self.columns.image), self.columns.image, where)
        problem = "" if isinstance(row[self.columns.image], Held) else self._missing(path)
        roles: dict[str, tuple[str, ...]] = {}
        for role, names in self.columns.roles.items():
            paths = [each for name in names for each in self._paths(row, name, where)]
            roles[role] = tuple(paths)
            why = self._role_problem(row, role, names, paths)
            problem = problem or why
        captions, caption_problem = captions_in(row, self.columns.captions, where)
        return Entry(
            path,
            captions,
            roles,
            focal_point=focal_point_in(row.get(FOCAL_POINT), where),
            problem=problem,
            caption_problem=caption_problem,
        )

    def _path(self, value: Any, column: str, where: str) -> str:
        if isinstance(value, Held):
            return f"{self.path}/{value}"
        wanted = "the path of a picture"
        if isinstance(value, str) and value:
            beside = self.path[: self.path.rfind("/") + 1]
            root, outside = str(self.folder.root), self.form.allow_outside
            try:
                return resolve(value, beside, self.folder.base, root, outside)
            except ValueError as error:
                wanted = str(error)
        raise ValueError(f"{where}: {column!r} is {value!r}: it must be {wanted}")

    def _paths(self, row: Row, column: str, where: str) -> list[str]:
        value = row.get(column)
        if value is None:
            return []
        values = value if isinstance(value, list) else [value]
        return [self._path(each, column, where) for each in values]

    def _role_problem(self, row: Row, role: str, names: tuple[str, ...], paths: list[str]) -> str:
        for name in names:
            if not row.get(name):
                return f"it has no {role}: column {name!r} is empty"
        if len(paths) > 1 and role != "reference":
            return f"it has {len(paths)} {role}s: {', '.join(paths)}"
        for path in paths:
            if not path.startswith(f"{self.path}/") and (why := self._missing(path)):
                return f"its {role} {path}: {why}"
        return ""

    def _missing(self, path: str) -> str:
        """Say why there is no file `path`, or "" where there is."""
        if (why := self.folder.files.get(path)) is not None:
            return why
        if self.form.allow_outside and os.path.isfile(os.path.join(self.folder.root, path)):
            return ""
        for link, why in self.folder.aside.items():
            if path.startswith(f"{link}/"):
                return f"it is below {link}, {why}"
        similar = self._similar.get(_alike(path))
        return "the file is missing" + (f", but there is {similar}" if similar else "")

    @cached_property
    def _similar(self) -> Mapping[str, str]:
        return {_alike(path): path for path in self.folder.files}


def _alike(path: str) -> str:
    """Give what names have in common that differ in case or in the form of their accents."""
    return unicodedata.normalize("NFC", path).casefold()


def captions_in(row: Row, columns: tuple[str, ...], where: str) -> tuple[tuple[str, ...], str]:
    """Give the captions of a row, in the order of `columns`, and why there are none.

    Raises:
        ValueError: A value is neither text nor a list of texts.
    """
    captions: list[str] = []
    for column in columns:
        value = row.get(column)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, str) for each in values):
            raise ValueError(
                f"{where}: {column!r} is {value!r}: it must be a text, a list of texts or null"
            )
        if not all(map(is_text, values)):
            return (), f"its {column} is not Unicode text"
        captions += values
    return tuple(captions), ""


def focal_point_in(value: Any, where: str) -> tuple[float, float] | None:
    """Give the point of a row that a crop should keep, as fractions of width and height.

    Raises:
        ValueError: It is no such point.
    """
    if value is None:
        return None
    try:
        x, y = map(float, json.loads(value) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(
            f"{where}: {FOCAL_POINT!r} is {value!r}: it must be [x, y], as fractions of the width "
            f"and the height from the upper left corner, or null"
        )
    return x, y
