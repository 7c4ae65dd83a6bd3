"""Make a configuration the active one: check it and write it, resolved, to params.yaml."""

from __future__ import annotations

import copy
import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.artifacts import write_text
from stages.params import document, pins
from stages.params.config import Config
from stages.params.places import check_places
from stages.params.resolve import settled

PARAMS = Path("params.yaml")


def use(path: Path, overrides: Sequence[str] = (), target: Path = PARAMS) -> Config:
    """Compose, check and write; nothing is written when anything is wrong.

    For a base on Hugging Face the pin that names its commit is written too; nothing is downloaded.

    Args:
        path: The configuration, usually in params/experiments.
        overrides: `key=value` texts, the values in YAML; they win over the files.
        target: The file to write.

    Raises:
        FileNotFoundError: A configuration or a folder that it names is not there.
        ValueError: The configuration is wrong or cannot be run yet.
    """
    config = settled(path, overrides)
    check_places(config, str(path))
    if pins.is_pinned(config.model):
        pins.write_pin(config.model)
    command = shlex.join(["python", "-m", "stages.params", "use", str(path), *overrides])
    header = f"# Written by `{' '.join(command.split())}` (an empty value is null)\n"
    write_text(target, header + dump(dataclasses.asdict(config)))
    return config


def dump(tree: dict[str, Any]) -> str:
    """Write a resolved tree in the very form of `dvc exp run -S`, so that its edits diff small."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Block style, null as nothing, no anchors, quotes only where YAML 1.2 needs them."""

    yaml_implicit_resolvers = copy.deepcopy(document.Loader.yaml_implicit_resolvers)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(  # a text such as 007 or 0x1F, which other readers take as a number
    document.INT, re.compile("^[-+]?[0-9][0-9a-fA-F_xo]*$"), list("-+0123456789")
)
_Dumper.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "")
)
