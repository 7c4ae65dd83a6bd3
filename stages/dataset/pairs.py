"""A folder of pictures, each with a caption file beside it, and parallel folders of other roles."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from stages.dataset.captions import (
    ReadText,
    read_captions,
    refuse_other_extension,
    refuse_picture_extension,
)
from stages.dataset.form import Entry, Form, Listing
from stages.dataset.tree import Folder
from stages.pixels import SUFFIXES


@dataclass
class Sorted:
    """The files of a folder by what their names say they are."""

    aside: dict[str, str]
    pictures: dict[str, str] = field(default_factory=dict)  # targets: path -> without suffix
    captions: dict[str, str] = field(default_factory=dict)  # path without extension -> path
    others: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RoleFolder:
    """Pictures that belong to those of the same name outside of it."""

    role: str
    path: str  # from the root, with "/" at the end
    pictures: dict[str, list[str]] = field(default_factory=dict)  # name below, no suffix -> paths


def list_pairs(folder: Folder, form: Form, read_text: ReadText) -> Listing:
    """List the pictures of a folder and its sub-folders, with their caption files.

    Raises:
        ValueError: The caption extension or a folder of `form.roles` cannot be meant.
    """
    refuse_picture_extension(form)
    roles = _role_folders(folder, form)
    found = _sorted(folder, roles, form.caption_extension.lower())
    stems = set(found.pictures.values())
    others = map(os.path.splitext, found.others)
    refuse_other_extension(str(folder), stems, found.captions.keys(), others, form)
    entries = []
    for path, stem in found.pictures.items():
        beside = found.captions.get(stem)
        captions: tuple[str, ...] = ()
        caption_problem = ""
        if beside is not None:
            captions, caption_problem = read_captions(folder, beside, form.per_line, read_text)
        belonging, problem = _belonging(folder, roles, path) if roles else ({}, "")
        entries.append(
            Entry(
                path,
                captions,
                belonging,
                problem=folder.files[path] or problem,
                caption_problem=caption_problem,
            )
        )
    _set_aside(found, stems, roles, entries)
    return Listing(entries, found.aside)


def _role_folders(folder: Folder, form: Form) -> list[RoleFolder]:
    """Find the folders that `form` names, in the order of the roles."""
    folders = []
    for role, names in form.roles.items():
        for index, name in enumerate(names):
            path = f"{folder.base}{name.strip('/')}/"
            key = f"data.references[{index}]" if role == "reference" else f"data.{role}"
            if not any(file.startswith(path) for file in folder.files):
                raise ValueError(
                    f"{key}: {name!r} is no folder of pictures in {folder}: make it, with one of "
                    f"the same name for each picture to train on, or set {key} to null"
                )
            folders.append(RoleFolder(role, path))
    return folders


def _sorted(folder: Folder, roles: Sequence[RoleFolder], extension: str) -> Sorted:
    found = Sorted(dict(folder.aside))
    for path, why in folder.files.items():
        suffix = folder.visible.get(path)
        if suffix is None:
            found.aside[path] = "hidden file"
        elif role := next((role for role in roles if path.startswith(role.path)), None):
            if suffix in SUFFIXES:
                name = path[len(role.path) : -len(suffix)]
                role.pictures.setdefault(name, []).append(path)
            else:
                found.aside[path] = why or f"no picture, in a folder of {role.role}s"
        elif suffix in SUFFIXES:
            found.pictures[path] = path[: -len(suffix)]
        elif path.lower().endswith(extension):
            stem = path[: -len(extension)]
            if (other := found.captions.get(stem)) is not None:  # a.TXT sorts before a.txt
                found.aside[other] = f"the caption is in {path}"
            found.captions[stem] = path
        else:
            found.others.append(path)
            found.aside[path] = why or "neither a picture nor a caption"
    return found


def _belonging(
    folder: Folder, roles: Iterable[RoleFolder], path: str
) -> tuple[dict[str, tuple[str, ...]], str]:
    """Find the pictures of all roles that belong to `path`, and why it cannot do without one."""
    name, suffix = os.path.splitext(path[len(folder.base) :])
    belonging: dict[str, tuple[str, ...]] = {}
    problem = ""
    for role in roles:
        candidates = role.pictures.get(name, [])
        same = [each for each in candidates if each.endswith(suffix)]
        if len(candidates) > 1 and len(same) == 1:
            candidates = same
        if len(candidates) == 1:
            belonging[role.role] = (*belonging.get(role.role, ()), candidates[0])
            why = folder.files[candidates[0]]
            problem = problem or (why and f"its {role.role} {candidates[0]}: {why}")
        elif candidates:
            problem = problem or f"it has {len(candidates)} {role.role}s: {', '.join(candidates)}"
        else:
            problem = problem or f"it has no {role.role} in {role.path}"
    return belonging, problem


def _set_aside(
    found: Sorted, stems: Set[str], roles: Sequence[RoleFolder], entries: Sequence[Entry]
) -> None:
    """Say why captions and pictures of other roles belong to no entry."""
    for stem, path in found.captions.items():
        if stem not in stems:
            found.aside[path] = "caption without a picture"
    used = _used(entry.roles for entry in entries) if roles else set()
    for role in roles:
        for path in (path for paths in role.pictures.values() for path in paths):
            if path not in used:
                found.aside[path] = f"{role.role} without a picture"


def _used(roles: Iterable[Mapping[str, Sequence[str]]]) -> set[str]:
    return {path for each in roles for paths in each.values() for path in paths}
