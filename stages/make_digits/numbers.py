"""Make the digits datasets: to train on, to make a small base from, to judge with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts import staging
from stages.make_digits.digits import (
    SEED,
    choose,
    split_numbers,
    split_scans,
    write_dataset,
    write_prompts,
    write_scans,
)

TRAIN_IMAGES = {1: 300, 2: 600, 3: 900}  # by number of digits
BASE_IMAGES = {1: 300, 2: 300, 3: 300}
PROMPTS = {2: 70, 3: 80}  # 380 digits to judge


@dataclass(frozen=True)
class Artifacts:
    """The three datasets: to train on, to make a small base from, to judge with."""

    digits: Path = Path("data/raw/digits")
    base: Path = Path("data/raw/digits_base")
    judge: Path = Path("data/raw/digits_judge")


def run(artifacts: Artifacts = Artifacts()) -> None:
    """Write the three datasets; the bytes are the same each time."""
    rng = np.random.default_rng(SEED)
    base, train, judge_train, judge_test = split_scans(rng)
    held_out, trained = split_numbers(rng)
    write_dataset(artifacts.digits, train, choose(trained, TRAIN_IMAGES, rng), rng)
    write_dataset(artifacts.base, base, choose(trained, BASE_IMAGES, rng), rng)
    with staging(artifacts.judge) as folder:
        write_scans(folder, judge_train, judge_test)
        write_prompts(folder, judge_test, choose(held_out, PROMPTS, rng), rng)
