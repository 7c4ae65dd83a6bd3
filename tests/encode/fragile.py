"""Encoders that kill the process they run in, for tests of what then becomes of their rows."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

from stages.encode_images.stage import load_encoder

SECONDS = 0.05  # that a batch takes


def dies_once(params, vae, device):
    """Load an encoder; of all processes that do, the first at its second batch is killed."""
    return _fragile(params, vae, device, limit=1)


def dies_always(params, vae, device):
    """Load an encoder that kills its process at its second batch."""
    return _fragile(params, vae, device, limit=10**6)


def slow(params, vae, device):
    """Load an encoder that takes its time."""
    return _fragile(params, vae, device, limit=0)


def _fragile(params, vae, device, limit):
    encoder, num_calls = load_encoder(params, vae, device), iter(range(10**6))
    marks = Path("deaths")

    def encode(batch):
        time.sleep(SECONDS)
        if next(num_calls) > 1 and _claims_a_death(marks, limit):  # the first call is the probe
            os.kill(os.getpid(), signal.SIGKILL)
        return encoder.encode(batch)

    return dataclasses.replace(encoder, encode=encode)


def _claims_a_death(marks: Path, limit: int) -> bool:
    marks.mkdir(exist_ok=True)
    number = len(list(marks.iterdir()))
    if number >= limit:
        return False
    try:
        (marks / str(number)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
