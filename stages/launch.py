"""Start a stage as a process: read its parameters, run it, tell a user's error in one line."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from stages.params.read import read

P = TypeVar("P")


def main(
    name: str, run: Callable[[P], None], params_type: type[P], has_options: bool = False
) -> None:
    """Run stage `name` with its parameters; a user's error is one line and exit code 1.

    A command line is refused, and `--help` answered, unless the stage reads options itself.
    """
    if not has_options:
        argparse.ArgumentParser(
            prog=f"python -m stages.{name}",
            description="A stage of the graph: it reads params.yaml, and `dvc repro` runs it.",
        ).parse_args()
    try:
        run(read(params_type))
    except (ValueError, OSError) as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:  # before a stage that has state to save began to listen
        sys.exit(128 + signal.SIGINT)
    finally:
        gc.freeze()  # at exit Python would look through all that was imported, for a second


def use_threads(threads: int) -> None:
    """Fix torch's thread count: the bits of a result depend on it, so it is a parameter."""
    import torch

    torch.set_num_threads(threads)
