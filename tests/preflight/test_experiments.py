"""Every experiment of the repository passes its pre-flight, whether its base is here or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.forecast.answer import answer
from stages.preflight.advice import refusals
from stages.preflight.experiment import predict_experiment

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "params/experiments").glob("*.yaml"))
CARD = 24 * 10**9  # bytes of a GPU that people have at home
MILLIONS = {  # of parameters that learn, where others have counted them too
    "sdxl_lora_example": 46.4,  # rank 32 of attention: 23.2 million at rank 16 in peft's own count
}


@pytest.fixture(autouse=True)
def repository(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DIFFBASE_STORE", str(tmp_path))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_passes_the_preflight(name):
    path = Path("params/experiments") / f"{name}.yaml"
    prediction, notes = predict_experiment(path, device_bytes=CARD, ask=answer)
    assert not list(refusals(prediction.needs, prediction.processes, prediction.disks))
    assert prediction.needs.memory.total > 0
    assert any("assumed" in note for note in notes)
    if name in MILLIONS:
        assert prediction.needs.num_trainable / 1e6 == pytest.approx(MILLIONS[name], rel=0.01)
