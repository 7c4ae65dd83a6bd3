"""`python -m stages.preflight`: of params.yaml, as a stage; or of a configuration, as a report."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from stages import launch
from stages.preflight.advice import refusals
from stages.preflight.experiment import predict_experiment
from stages.preflight.stage import Params, run, say

UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def num_bytes(text: str) -> int:
    """Read a size such as 24GB or 80GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text)
    if found is None or found[2] not in UNITS:
        raise argparse.ArgumentTypeError(
            f"{text!r} given, a number with one of {[*UNITS][1:]} expected, such as 24GB"
        )
    return int(float(found[1]) * UNITS[found[2]])


def main() -> None:
    """Run the stage, or report on the configuration that is named."""
    parser = argparse.ArgumentParser(prog="python -m stages.preflight", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="a configuration; none: params.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="win over the file")
    parser.add_argument(
        "--device-memory", type=num_bytes, metavar="SIZE", help="of a device, in place of this one"
    )
    given = parser.parse_intermixed_args()
    if given.file is None:
        launch.main("preflight", run, Params, has_options=True)
        return
    try:
        prediction, notes = predict_experiment(given.file, given.overrides, given.device_memory)
    except (ValueError, OSError) as error:
        sys.exit(f"preflight: {error}")
    say([*notes, *prediction.lines()])
    if refused := list(refusals(prediction.needs, prediction.processes, prediction.disks)):
        sys.exit("\n".join(f"preflight: {line}" for line in refused))


if __name__ == "__main__":
    main()
