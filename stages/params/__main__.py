"""`python -m stages.params use FILE [key=value ...]`: choose what the pipeline runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stages.params import rules_lora
from stages.params.use import PARAMS, use


def main(arguments: list[str] | None = None) -> None:
    """Run the command; a user's error is one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m stages.params", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("use", help=f"check a configuration and write it to {PARAMS}")
    command.add_argument("file", type=Path, help="such as params/experiments/digits_flux2.yaml")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="training.steps=900")
    given = parser.parse_args(arguments)
    try:
        config = use(given.file, given.overrides)
    except (ValueError, OSError) as error:
        sys.exit(f"params: {error}")
    for doubt in rules_lora.doubtful(config):
        print(f"params: warning: {doubt}", file=sys.stderr)  # noqa: T201
    training = config.training
    length = f"{training.steps} steps" if training.steps else f"{training.epochs} epochs"
    print(  # noqa: T201
        f"{PARAMS} written from {given.file}: {config.model.type}, {training.method}, {length} on "
        f"{config.data.train_path}; next: dvc repro"
    )


if __name__ == "__main__":
    main()
