"""Typed sections: declare fields with their limits, check plain values against them, build them.

OmegaConf's own structured configs cannot merge into nested frozen dataclasses and lose the path of
an error inside a list (2.3.1), so the check is here; OmegaConf merges and resolves (compose.py).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

S = TypeVar("S")
REQUIRED: Any = dataclasses.MISSING
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
COMPARISONS = {
    "at_least": lambda value, limit: value >= limit,
    "above": lambda value, limit: value > limit,
    "at_most": lambda value, limit: value <= limit,
    "below": lambda value, limit: value < limit,
}


def number(
    default: Any = REQUIRED,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare a number, or a list of numbers, within limits; without a default it must be given."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {name: limit for name, limit in limits.items() if limit is not None}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def choice(default: str | None, *choices: str) -> Any:
    """Declare a text that is one of `choices`."""
    return dataclasses.field(default=default, metadata={"choices": choices})


def check(section: type, given: Any, where: str, key: str = "") -> dict[str, Any]:
    """Check the keys that are given and return them in the schema's order and types.

    Args:
        section: The dataclass that declares the keys.
        given: Plain values; values with an interpolation (`${...}`) pass unchecked.
        where: The file, for messages.
        key: The dotted key of `section` in it.

    Raises:
        ValueError: An unknown key, a wrong type or a value out of range.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: {key}: {show(given)} given, a mapping of keys expected")
    fields = {field.name: field for field in dataclasses.fields(section)}
    for name in given:
        if name not in fields:
            raise ValueError(f"{where}: {unknown(join(key, name), name, list(fields))}")
    kinds = hints(section)
    return {
        name: _check_value(kinds[name], field.metadata, given[name], where, join(key, name))
        for name, field in fields.items()
        if name in given
    }


def build(section: type[S], given: Mapping[str, Any], where: str, key: str = "") -> S:
    """Check `given` and make a frozen `section` of it; keys not given take their defaults.

    Raises:
        ValueError: As `check`, a required key that is not given, or keys that exclude each other.
    """
    tree = fill(section, check(section, given, where, key))
    if absent := find(tree, is_missing, key):
        raise ValueError(f"{where}: {absent} is not given: add it")
    if unresolved := find(tree, is_interpolation, key):
        raise ValueError(
            f"{where}: {unresolved} holds an interpolation (${{...}}), which only "
            "`python -m stages.params use` resolves: write the value"
        )
    try:
        instance: S = _instantiate(section, tree)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return instance


def fill(section: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete checked values with the defaults; what is required and not given becomes `???`."""
    kinds = hints(section)
    return {
        field.name: _fill_value(kinds[field.name], _given_or_default(field, given))
        for field in dataclasses.fields(section)
    }


def find(tree: Any, matches: Callable[[Any], bool], key: str = "") -> str | None:
    """Find the dotted key of the first value that matches in a tree of plain values."""
    if isinstance(tree, Mapping):
        children = [(join(key, name), value) for name, value in tree.items()]
    elif isinstance(tree, list):
        children = [(f"{key}[{index}]", value) for index, value in enumerate(tree)]
    else:
        return key if matches(tree) else None
    return next((found for name, value in children if (found := find(value, matches, name))), None)


def is_missing(value: Any) -> bool:
    """Tell whether a filled value is required and was not given."""
    return isinstance(value, str) and value == "???"


def is_interpolation(value: Any) -> bool:
    """Tell whether a value refers to another key."""
    return isinstance(value, str) and "${" in value


def unknown(key: str, name: Any, names: list[str]) -> str:
    """Say that `key` does not exist, with the nearest valid name or all of them."""
    from difflib import get_close_matches  # only an error pays for it

    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
    return f"{key}: unknown key; {advice}"


def join(*names: str) -> str:
    """Join the parts of a dotted key, leaving out empty ones."""
    return ".".join(str(name) for name in names if name != "")


def show(value: Any) -> str:
    """Quote a given value, shortened when long."""
    shortener = reprlib.Repr()
    shortener.maxstring = 80
    return shortener.repr(value)


@functools.cache
def hints(section: type) -> dict[str, Any]:
    """Resolve the annotations of a dataclass."""
    return typing.get_type_hints(section)


def _split_optional(kind: Any) -> tuple[Any, bool]:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        inner = [one for one in typing.get_args(kind) if one is not type(None)]
        return inner[0], True
    return kind, False


def _check_value(kind: Any, limits: Mapping[str, Any], value: Any, where: str, key: str) -> Any:
    inner, is_optional = _split_optional(kind)
    if (value is None and is_optional) or is_interpolation(value):
        return value
    if dataclasses.is_dataclass(inner):
        return check(typing.cast(type, inner), value, where, key)
    if typing.get_origin(inner) is list:
        if not isinstance(value, list):
            raise ValueError(f"{where}: {key}: {show(value)} given, a list expected")
        (item,) = typing.get_args(inner)
        return [
            _check_value(item, limits, one, where, f"{key}[{index}]")
            for index, one in enumerate(value)
        ]
    converted = _convert(inner, value)
    if converted is None or not _is_allowed(converted, limits):
        allowed = _describe(inner, limits) + (" or null" if is_optional else "")
        raise ValueError(f"{where}: {key}: {show(value)} given, {allowed} expected")
    return converted


def _convert(kind: type, value: Any) -> Any:
    """Return the value as `kind`, or None where it is no such value."""
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if kind is float and isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    if kind is str and isinstance(value, int):  # a name such as 2026
        return str(value)
    return value if isinstance(value, kind) else None


def _is_allowed(value: Any, limits: Mapping[str, Any]) -> bool:
    if choices := limits.get("choices"):
        return value in choices
    return all(COMPARISONS[name](value, limit) for name, limit in limits.items())


def _describe(kind: type, limits: Mapping[str, Any]) -> str:
    if choices := limits.get("choices"):
        return "one of " + ", ".join(choices) if len(choices) > 1 else repr(choices[0])
    bounds = " and ".join(f"{name.replace('_', ' ')} {limit:g}" for name, limit in limits.items())
    return f"{WORDS[kind]} ({bounds})" if bounds else WORDS[kind]


def _given_or_default(field: dataclasses.Field[Any], given: Mapping[str, Any]) -> Any:
    if field.name in given:
        return given[field.name]
    if field.default is not REQUIRED:
        return field.default
    factory: Any = field.default_factory
    return REQUIRED if factory is REQUIRED else factory()


def _fill_value(kind: Any, value: Any) -> Any:
    inner, _ = _split_optional(kind)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if dataclasses.is_dataclass(inner) and (value is REQUIRED or isinstance(value, Mapping)):
        return fill(typing.cast(type, inner), {} if value is REQUIRED else value)
    if isinstance(value, list):
        return [_fill_value(typing.get_args(inner)[0], one) for one in value]
    return "???" if value is REQUIRED else value


def _instantiate(kind: Any, value: Any) -> Any:
    inner, _ = _split_optional(kind)
    if isinstance(value, list):
        return [_instantiate(typing.get_args(inner)[0], one) for one in value]
    if isinstance(value, Mapping):
        kinds = hints(inner)
        return inner(**{name: _instantiate(kinds[name], one) for name, one in value.items()})
    return value
