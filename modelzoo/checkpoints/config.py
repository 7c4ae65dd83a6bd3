"""Typed configurations from and to the `config.json` of a component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

LAYOUT_VERSION = "0.42.1"  # the diffusers release whose layout is written

T = TypeVar("T")


def from_json(cls: type[T], values: Mapping[str, Any], ignored: frozenset[str] = frozenset()) -> T:
    """Build the frozen dataclass `cls` from a config.json; keys that start with _ are bookkeeping.

    Raises:
        ValueError: A key is neither a field of `cls` nor in `ignored`.
    """
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    given = {k: v for k, v in values.items() if not k.startswith("_") and k not in ignored}
    if unknown := sorted(given.keys() - known):
        raise ValueError(
            f"config.json of {values.get('_class_name', cls.__name__)}: unknown keys {unknown!r}; "
            f"known are {sorted(known)!r}: remove them or use a version that knows them"
        )
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def check_required(
    values: Mapping[str, Any], required: Sequence[str], network: str, advice: str
) -> None:
    """Ask for keys whose default is that of another model.

    Raises:
        ValueError: A key is missing.
    """
    if missing := [name for name in required if name not in values]:
        raise ValueError(
            f"config.json of {values.get('_class_name', network)}: {missing!r} are not there, so "
            f"it is not {network}; {advice}"
        )


def check_fixed(
    values: Mapping[str, Any], fixed: Mapping[str, Any], family: str, advice: str
) -> None:
    """Compare keys that have one supported value each; a key that is missing has it.

    Raises:
        ValueError: A key has another value.
    """
    for name, value in fixed.items():
        # null and false are the same to diffusers
        if name in values and (values[name] or None) != (value or None):
            raise ValueError(
                f"config.json of {values.get('_class_name', family)}: {name} {values[name]!r} is "
                f"not supported, {family} has {value!r}; {advice}"
            )


def to_json(config: Any, class_name: str) -> dict[str, Any]:
    """Write a configuration as diffusers would: its fields, the class name and the version."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    return {"_class_name": class_name, "_diffusers_version": LAYOUT_VERSION, **values}
