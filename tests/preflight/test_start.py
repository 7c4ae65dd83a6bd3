"""What a training goes on from is held to it before anything is encoded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelzoo.adapters.found import digest
from stages.artifacts import write_json
from stages.forecast.answer import answer
from stages.forecast.base import base_of
from stages.forecast.memory import measure
from stages.forecast.start import refuse_other_checkpoint
from stages.train.checkpoints import FACTS
from stages.train.fingerprint import parts_of
from stages.train.resume import PARAMETERS
from stages.train.stage import Artifacts, settings_of
from tests.preflight.workspace import asked_in, params_in

LAYER = "transformer.transformer_blocks.0.attn.to_q"


def measured_from(home, monkeypatch, place, **changes):
    """Measure a LoRA that goes on from a file."""
    given = {"init_from": str(place), "init_digest": digest(place), "rank": 2, **changes}
    lora = {"target_modules": ["all-linear"], **given}
    params = params_in(home, monkeypatch, {"method": "lora", "lora": lora})
    return measure(params, base_of(asked_in(home), "flux2"), asked_in(home))


def test_a_lora_to_go_on_from_is_read_though_the_network_has_no_values(home, monkeypatch, tmp_path):
    place = tmp_path / "given.safetensors"
    halves = {"lora_A": torch.ones(2, 16), "lora_B": torch.ones(16, 2)}
    save_file({f"{LAYER}.{half}.weight": tensor for half, tensor in halves.items()}, place)
    assert measured_from(home, monkeypatch, place).num_trainable > 0
    with pytest.raises(ValueError, match=r"has rank 2, but training\.lora\.rank gives it 3"):
        measured_from(home, monkeypatch, place, rank=3)
    save_file({"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(2, 4)}, place)
    with pytest.raises(ValueError, match=r"is no layer of model\.type 'flux2': give a LoRA of th"):
        measured_from(home, monkeypatch, place)


def checkpoint_of(params, folder: Path) -> Path:
    """Write what is read of a checkpoint of these parameters."""
    step = folder / "step-00000004"
    step.mkdir(parents=True)
    write_json(step / FACTS, {})
    base = [Artifacts().denoiser, Artifacts().scheduler]
    parts = parts_of([], base, params.training, settings_of(params))
    tables = {"tables": {"latents.parquet": "those of then"}}
    write_json(folder / PARAMETERS, {"experiment": "toy", **parts, **tables})
    return step


def test_a_checkpoint_of_another_training_is_refused_before_encoding(home, monkeypatch, tmp_path):
    params = params_in(home, monkeypatch, {"learning_rate": 1e-3})
    step = checkpoint_of(params, tmp_path / "training")
    resumed = {"checkpoint": {"resume_from": str(step)}}
    refuse_other_checkpoint(params_in(home, monkeypatch, {"learning_rate": 1e-3, **resumed}))
    params_in(home, monkeypatch, {"learning_rate": 2e-3, **resumed})
    with pytest.raises(ValueError, match=r"learning_rate \(0.001 there, 0.002 here\)"):
        answer(asked_in(home))
    params_in(home, monkeypatch, {"checkpoint": {"resume_from": str(tmp_path / "nowhere")}})
    with pytest.raises(ValueError, match="no checkpoint is there"):
        answer(asked_in(home))
