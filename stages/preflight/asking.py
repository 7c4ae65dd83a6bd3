"""Ask the trainer's own code what it needs, in a process of its own: no stage imports another."""

from __future__ import annotations

import subprocess
import sys

from stages.needs import Asked, Needs, needs_from, to_json

MODULE = "stages.forecast"  # tests/test_pipeline_graph.py holds dvc.yaml to what it imports


def ask(asked: Asked) -> Needs:
    """Return the needs of a training.

    Raises:
        ValueError: It cannot be built; the reason is the trainer's own.
    """
    command = [sys.executable, "-m", MODULE]
    answer = subprocess.run(
        command, input=to_json(asked), capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise ValueError(answer.stderr.strip() or f"{MODULE} ended with {answer.returncode}")
    return needs_from(answer.stdout)
