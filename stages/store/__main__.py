"""Look after the row store: `python -m stages.store report | explain FILE | gc | check`."""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta

from stages.params.read import read
from stages.rows.location import store_root
from stages.store.check import Damage, check, mend
from stages.store.clean import clean, find_unused
from stages.store.expected import Expected, Params, expected_captions, expected_pictures
from stages.store.explain import explain
from stages.store.report import forecast, preview, report, show, size
from stages.store.tables import named_keys


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a user's error is one line and exit code 1."""
    asked = _parser().parse_args(arguments)
    try:
        asked.run(asked, store_root(read(Params).store))
    except (ValueError, OSError) as error:
        sys.exit(f"store {asked.command}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("report", help="say what is there")
    command.add_argument("--forecast", action="store_true", help="say what encoding will add")
    command.set_defaults(run=_report)
    command = commands.add_parser("explain", help="say why rows are reused or encoded")
    command.add_argument("file", help="a picture's path, a sample id, a caption, or a key")
    command.set_defaults(run=_explain)
    command = commands.add_parser("gc", help="remove rows that nobody uses")
    command.add_argument("--unused-for", type=int, default=30, metavar="DAYS")
    command.add_argument("--yes", action="store_true", help="remove them; without it only look")
    command.set_defaults(run=_clean)
    command = commands.add_parser("check", help="compare every row with its checksum")
    command.add_argument("--mend", action="store_true", help="remove the damaged rows")
    command.set_defaults(run=_check)
    return parser


def _report(asked: argparse.Namespace, root: str) -> None:
    if asked.forecast:
        show([forecast(root, _expected())])
    else:
        show(report(root, named_keys()))


def _explain(asked: argparse.Namespace, root: str) -> None:
    for line in explain(root, asked.file, _expected()):
        print(line)  # noqa: T201


def _clean(asked: argparse.Namespace, root: str) -> None:
    unused_for = timedelta(days=asked.unused_for)
    show([preview(find_unused(root, named_keys(), unused_for))])
    if asked.yes:
        freed = clean(root, named_keys(), unused_for)
        print(f"freed {size(freed)}")  # noqa: T201
    else:
        print("nothing was removed: add --yes to remove these rows")  # noqa: T201


def _check(asked: argparse.Namespace, root: str) -> None:
    found = check(root)
    for damage in found:
        print(f"{damage.place.name}: {_condition(damage)}")  # noqa: T201
        if asked.mend and not damage.is_whole:
            mend(damage)
    if not asked.mend and not all(damage.is_whole for damage in found):
        raise ValueError(
            "there is damage: run `python -m stages.store check --mend`, which removes the damaged"
            " rows; they are encoded again where they are needed"
        )


def _condition(damage: Damage) -> str:
    if damage.is_unreadable:
        return "does not open"
    if damage.is_whole:
        return f"{damage.num_rows} rows, all as they were written"
    lost = damage.num_lost + len(damage.keys)
    return f"{lost} of {damage.num_rows} rows are damaged"


def _expected() -> list[Expected]:
    params = read(Params)
    return [*expected_pictures(params), *expected_captions(params)]


if __name__ == "__main__":
    main()
