"""The base's noise schedule is the one that the parameters ask for, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modelzoo.process.processes import process_of
from modelzoo.sdxl.presets import scheduler_config
from stages.params.model import Scheduler
from stages.params.objective import Objective
from stages.prepare_base.parts import Base
from stages.prepare_base.scheduler import FILE, with_schedule
from stages.train.objectives import OBJECTIVES


def base_of(folder: Path, prediction: str) -> Base:
    (folder / "scheduler").mkdir(parents=True)
    config = scheduler_config({"scheduler": {"prediction_type": prediction}})
    (folder / "scheduler" / FILE).write_text(json.dumps(config))
    return Base({}, {"scheduler": folder / "scheduler"}, {"scheduler": folder / "scheduler"})


def scheduled(tmp_path: Path, prediction: str, **asked: Any) -> Base:
    base = base_of(tmp_path / "given", prediction)
    section = Scheduler(type="ddpm", **asked)
    return with_schedule(base, section, tmp_path / "made", tmp_path / "home")


def test_a_schedule_that_nothing_is_asked_of_stays_where_it_is(tmp_path: Path) -> None:
    base = scheduled(tmp_path, "epsilon", prediction_type="epsilon")
    assert base.homes["scheduler"] == tmp_path / "given/scheduler"
    assert not (tmp_path / "made").exists()


def test_no_data_is_left_at_the_last_timestep_which_training_and_sampling_visit(
    tmp_path: Path,
) -> None:
    base = scheduled(tmp_path, "v_prediction", zero_terminal_snr=True)
    assert base.homes["scheduler"] == tmp_path / "home/scheduler"
    config = json.loads((base.folders["scheduler"] / FILE).read_text())
    objective = OBJECTIVES["ddpm"](Objective(type="ddpm", timestep_sampling="uniform"), config)
    data, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    last = objective.times(torch.tensor([0.9999], dtype=torch.float64), 1)
    assert torch.equal(objective.noisy(data, noise, last), noise)
    assert objective.losses(-data, data, noise, last).item() == 0
    visited: list[float] = []

    def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        visited.append(t.item())
        return -data

    found = process_of(config, "sdxl").sample(predict, noise, 1, 1)
    torch.testing.assert_close(found, data, rtol=1e-2, atol=1e-2)
    assert visited == pytest.approx([0.999])


@pytest.mark.parametrize(
    ("prediction", "asked", "said"),
    [
        ("epsilon", {"zero_terminal_snr": True}, "says nothing where no data is left: set false"),
        ("v_prediction", {"prediction_type": "epsilon"}, "says 'v_prediction': set that or null"),
    ],
)
def test_a_schedule_that_does_not_fit_the_base_is_refused(
    tmp_path: Path, prediction: str, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        scheduled(tmp_path, prediction, **asked)
    assert "\n" not in str(error.value)
