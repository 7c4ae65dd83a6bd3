"""Compose YAML files by their `_base_` lists into one tree, checked file by file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.params import document, schema
from stages.params.config import Config

BASE = "_base_"
ALIASES = (("training.learning_rate", "training.optimizer.lr"), ("data.store", "data.cache_dir"))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a configuration with its bases and the schema's defaults, for reading by attribute.

    What is required and given by none of the files is OmegaConf's missing value, so a file with
    one section loads too.

    Raises:
        FileNotFoundError: The file or one of its bases is not there.
        ValueError: A cycle, an unknown key, a wrong type or two different values of one setting.
    """
    config = OmegaConf.create(schema.fill(Config, compose(Path(path), overrides)))
    OmegaConf.set_readonly(config, True)
    return config


def compose(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Merge a file over its bases and `key=value` overrides over both; only given keys are in it.

    Raises:
        FileNotFoundError: The file or one of its bases is not there.
        ValueError: As `load_config`.
    """
    layers = [*_layers(path, ()), *(("command line", _override(text)) for text in overrides)]
    checked = [schema.check(Config, tree, where) for where, tree in layers]
    try:
        merged = OmegaConf.merge(*checked)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {first_line(error)}") from None
    composed = schema.check(Config, OmegaConf.to_container(merged), str(path))
    for name, alias in ALIASES:
        _settle(composed, name, alias, str(path))
    return composed


def lookup(tree: dict[str, Any], dotted: str) -> Any:
    """Follow a dotted key into a tree; None where there is nothing."""
    value: Any = tree
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key in a tree, making the mappings on the way."""
    *folders, last = dotted.split(".")
    for name in folders:
        tree = tree.setdefault(name, {})
    tree[last] = value


def _layers(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file, its own keys) from the deepest base to `path` itself."""
    if path in above:
        circle = " -> ".join(map(str, (*above[above.index(path) :], path)))
        raise ValueError(f"{path}: {BASE} goes round in a circle: {circle}: take one of them out")
    if not path.is_file():
        raise FileNotFoundError(_not_there(path, above))
    tree = document.load(path)
    bases = tree.pop(BASE, None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: {BASE}: {bases!r} given, a list of files expected")
    for base in bases:
        yield from _layers(Path(os.path.normpath(path.parent / base)), (*above, path))
    yield str(path), tree


def _not_there(path: Path, above: tuple[Path, ...]) -> str:
    named_by = f"{above[-1]}: {BASE} names {path}, which" if above else str(path)
    there = sorted(one.name for one in path.parent.glob("*.yaml"))
    near = get_close_matches(path.name, there, n=1)
    advice = f"did you mean {near[0]}?" if near else f"in {path.parent}: {', '.join(there) or '-'}"
    return f"{named_by} is not there; {advice}"


def _override(text: str) -> dict[str, Any]:
    """Turn `training.steps=900` into a tree; the value is YAML."""
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise ValueError(f"command line: {text!r} given, key=value expected (training.steps=900)")
    tree: dict[str, Any] = {}
    assign(tree, name, document.parse(value, f"command line: {name}"))
    return tree


def _settle(tree: dict[str, Any], name: str, alias: str, where: str) -> None:
    """Let the alias of a setting stand for it; two different values are an error."""
    value, other = lookup(tree, name), lookup(tree, alias)
    if None not in (value, other) and value != other:
        raise ValueError(
            f"{where}: {name} ({value!r}) and {alias} ({other!r}) are two names of one setting "
            f"and differ: give {name} alone"
        )
    if value is None and other is not None:
        assign(tree, name, other)


def first_line(error: OmegaConfBaseException) -> str:
    """Say an OmegaConf error in one line, beginning with its dotted key."""
    key = f"{error.full_key}: " if error.full_key else ""
    return key + str(error).splitlines()[0]
