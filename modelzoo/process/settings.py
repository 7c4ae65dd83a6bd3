"""What of a diffusers scheduler_config.json a process reads, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields
from typing import Any


def read_settings(
    cls: type,
    values: Mapping[str, Any],
    needed: AbstractSet[str],
    supported: Mapping[str, Any],
    ignored: AbstractSet[str],
) -> dict[str, Any]:
    """Give the values of the fields of the dataclass `cls`; keys with _ are bookkeeping.

    Args:
        cls: Its fields are the keys that are read.
        values: The content of the file.
        needed: Keys that must be there, as classes of schedulers differ in their defaults.
        supported: Keys that may have one value only.
        ignored: Keys that change nothing here.

    Raises:
        ValueError: A key is missing, unknown, or has another value than the supported one.
    """
    name = f"scheduler_config.json of {values.get('_class_name')}"
    given = {k: v for k, v in values.items() if not k.startswith("_") and k not in ignored}
    own = {field.name for field in fields(cls)}
    missing, unknown = sorted(needed - given.keys()), sorted(given.keys() - own - supported.keys())
    if missing or unknown:
        raise ValueError(
            f"{name}: missing are {missing!r}, unknown are {unknown!r}; "
            f"known are {sorted(own | supported.keys() | ignored)!r}: add or remove them"
        )
    for key in given.keys() & supported.keys():
        if given[key] != supported[key]:
            raise ValueError(
                f"{name}: {key} {given[key]!r} is not supported; set {supported[key]!r}"
            )
    return {k: v for k, v in given.items() if k in own}
