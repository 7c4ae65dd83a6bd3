"""Read the parameters that a stage declares from params.yaml, checked against their sections."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from stages.params import document, schema

P = TypeVar("P")

# Named, not imported: a stage depends only on the sections that it reads (see `modules`).
SECTIONS = {
    "experiment": ("stages.params.experiment", "Experiment"),
    "model": ("stages.params.model", "Model"),
    "training": ("stages.params.training", "Training"),
    "data": ("stages.params.data", "Data"),
    "hardware": ("stages.params.hardware", "Hardware"),
    "sample": ("stages.params.outputs", "Sample"),
    "evaluate": ("stages.params.outputs", "Evaluate"),
    "export": ("stages.params.outputs", "Export"),
    "tracking": ("stages.params.tracking", "Tracking"),
}


def key(dotted: str, tracked: bool = True) -> Any:
    """Declare a field of a stage's `Params` that holds the key or section `dotted`.

    Args:
        dotted: A key of params.yaml ("experiment.seed"), or a section, or a part of one.
        tracked: False for what is read but is no reason to run again (places, tracking).
    """
    return dataclasses.field(metadata={"key": dotted, "tracked": tracked})


def read(params_type: type[P], path: Path = Path("params.yaml")) -> P:
    """Read what `params_type` declares; only the sections it names are checked.

    Raises:
        FileNotFoundError: There is no params.yaml.
        ValueError: A section is missing, or a key in it is unknown, of a wrong type or range.
    """
    declared = _declared(params_type)
    tree = _load(path) if declared else {}
    sections = {
        name: section(name, tree, str(path))
        for name in dict.fromkeys(field_key.split(".")[0] for field_key, _ in declared.values())
    }
    values = {name: _find(sections, field_key) for name, (field_key, _) in declared.items()}
    return params_type(**values)


def section(name: str, tree: Mapping[str, Any], where: str) -> Any:
    """Build section `name` of a params.yaml tree, as its dataclass."""
    if name not in tree:
        raise ValueError(
            f"{where}: section {name!r} is missing: write the file again with "
            "`python -m stages.params use FILE`"
        )
    return schema.build(section_type(name), tree[name], where, name)


def section_type(name: str) -> Any:
    """Import the dataclass of section `name`."""
    if name not in SECTIONS:
        raise ValueError(schema.unknown(name, name, list(SECTIONS)))
    module, class_name = SECTIONS[name]
    return getattr(importlib.import_module(module), class_name)


def declared_keys(params_type: type) -> list[str]:
    """List the tracked keys of a stage's `Params`: what dvc.yaml must name under `params:`."""
    return [dotted for dotted, is_tracked in _declared(params_type).values() if is_tracked]


def modules(params_type: type) -> list[str]:
    """List the section modules that reading `params_type` imports, which no import graph sees."""
    names = (dotted.split(".")[0] for dotted, _ in _declared(params_type).values())
    return sorted({SECTIONS[name][0] for name in names})


def canonical(value: Any) -> Any:
    """Turn parameters into JSON-able values for a fingerprint: equal values, equal JSON.

    Raises:
        TypeError: A value that has no such form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): canonical(value[name]) for name in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [canonical(one) for one in value]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value!r} has no canonical form")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form: {value!r}")


def _declared(params_type: type) -> dict[str, tuple[str, bool]]:
    """Field name -> (dotted key, tracked)."""
    return {
        field.name: (field.metadata["key"], field.metadata["tracked"])
        for field in dataclasses.fields(params_type)
    }


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not here: make it with `python -m stages.params use "
            "params/experiments/digits_flux2.yaml` in the repository's root"
        )
    return document.load(path)


def _find(sections: Mapping[str, Any], dotted: str) -> Any:
    """Follow a dotted key into the sections; below a null section everything is null."""
    first, *rest = dotted.split(".")
    value = sections[first]
    for name in rest:
        if value is None:
            return None
        if not hasattr(value, name):
            names = [field.name for field in dataclasses.fields(value)]
            raise ValueError(schema.unknown(dotted, name, names))
        value = getattr(value, name)
    return value
