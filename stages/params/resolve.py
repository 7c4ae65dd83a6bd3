"""From a composed tree to the resolved one that params.yaml holds, and its check ever after."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages.params import compose, rules, schema
from stages.params.config import Config

AGAIN = "write the file again with `python -m stages.params use FILE [key=value ...]`"


def settled(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Compose and check a configuration, and fill in what is derived from the rest.

    Raises:
        FileNotFoundError: The configuration or one of its bases is not there.
        ValueError: The configuration is wrong or cannot be run yet.
    """
    given = compose.compose(path, overrides)
    for _, alias in compose.ALIASES:
        if compose.lookup(given, alias) is not None:
            compose.assign(given, alias, None)
    config = schema.build(Config, _resolve(given, str(path)), str(path))
    rules.hold(config, str(path))
    by_hand = compose.lookup(given, "model.source")
    derived = rules.derived(config)
    if by_hand not in (None, derived["model.source"]):
        raise ValueError(
            f"{path}: model.source: {by_hand!r} given, but it follows from "
            f"model.from_scratch.dataset or model.pretrained_path ({derived['model.source']!r}): "
            "take it out"
        )
    source, components = derived["model.source"], derived["model.components"]
    training = config.training
    if training.lora is not None:
        digest = derived["training.lora.init_digest"]
        lora = dataclasses.replace(training.lora, init_digest=digest)
        training = dataclasses.replace(training, lora=lora)
    return dataclasses.replace(
        config,
        training=training,
        model=dataclasses.replace(config.model, source=source, components=components),
        sample=dataclasses.replace(config.sample, pictures=derived["sample.pictures"]),
        evaluate=dataclasses.replace(config.evaluate, judge_path=derived["evaluate.judge_path"]),
    )


def check_resolved(tree: dict[str, Any], where: str) -> Config:
    """Check a whole params.yaml as `use` writes it, whoever edited it since.

    Raises:
        ValueError: A key that is unknown, missing, wrong, stale or not available.
    """
    given = schema.check(Config, tree, where)
    if absent := _absent(schema.fill(Config, given), given):
        raise ValueError(f"{where}: {absent} is missing: {AGAIN}")
    config = schema.build(Config, given, where)
    for name, alias in compose.ALIASES:
        other = compose.lookup(given, alias)
        if other is not None and other != compose.lookup(given, name):
            raise ValueError(f"{where}: {alias} is another name of {name}: set {name} instead")
    rules.hold(config, where)
    for key, value in rules.derived(config).items():
        if (found := compose.lookup(given, key)) != value:
            raise ValueError(f"{where}: {key}: {found!r} is stale, {value!r} expected: {AGAIN}")
    return config


def _resolve(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Complete a composed tree with the defaults and resolve its interpolations."""
    tree = schema.fill(Config, given)
    if absent := schema.find(tree, schema.is_missing):
        raise ValueError(f"{where}: {absent} is not given: add it there or as {absent}=VALUE")
    try:
        plain = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{where}: {compose.first_line(error)}") from None
    return schema.check(Config, plain, where)


def _absent(filled: Any, given: Any, key: str = "") -> str | None:
    """Find the first dotted key that the schema has and `given` has not."""
    if isinstance(filled, dict):
        for name, value in filled.items():
            inner = schema.join(key, name)
            if name not in given:
                return inner
            if found := _absent(value, given[name], inner):
                return found
    if isinstance(filled, list):
        for index, value in enumerate(filled):
            if found := _absent(value, given[index], f"{key}[{index}]"):
                return found
    return None
