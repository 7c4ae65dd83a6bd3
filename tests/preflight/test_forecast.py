"""What a step of tensors without values takes is what the same step takes with values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modelzoo.autoencoders import load_autoencoder
from stages.base_record import read_record
from stages.forecast.answer import answer
from stages.forecast.base import base_of
from stages.forecast.batch import batch_of, rows_of
from stages.forecast.encoding import time_encoders
from stages.forecast.live import LiveBytes, stored_bytes
from stages.forecast.machine import host_memory
from stages.forecast.memory import measure, method_of, networks_of, tensors_of
from stages.forecast.probe import on_a_line
from stages.forecast.remedies import remedies
from stages.needs import EncoderCalls
from stages.train.optimizers import OPTIMIZERS
from stages.train.peers import Peers
from stages.train.stage import Artifacts, create_state
from tests import toys
from tests.preflight.workspace import BATCHES, LENGTHS, asked_in, params_in

PROMPTS = {"instance_prompt": "sks digit", "class_prompt": "a digit"}


CASES = {
    "full": {},
    "full, accumulated": {"gradient_accumulation": 4},
    "full, in part": {"full_finetune": {"parts": ["to_q"]}},
    "lora": {"method": "lora", "lora": {"rank": 2, "target_modules": ["all-linear"]}},
    "lora, packed base": {
        "method": "lora",
        "base_quantization": "nf4",
        "lora": {"rank": 2, "target_modules": ["all-linear"]},
    },
    "lokr": {
        "method": "lora",
        "lora": {"kind": "lokr", "rank": 2, "target_modules": ["all-linear"]},
    },
    "loha": {
        "method": "lora",
        "lora": {"kind": "loha", "rank": 2, "target_modules": ["all-linear"]},
    },
    "controlnet, packed base": {"method": "controlnet", "base_quantization": "int8"},
    "controlnet": {"method": "controlnet"},
    "prior": {
        "method": "dreambooth",
        "dreambooth": {**PROMPTS, "prior": "prediction", "num_class_images": 0},
    },
    "kontext": {"editing": "kontext"},
    "random fill": {"editing": "fill", "fill": {"masks": "random"}},
}


@pytest.mark.parametrize(
    ("case", "checkpointed"), [*((case, False) for case in CASES), ("full", True), ("lora", True)]
)
def test_a_step_takes_what_was_predicted(home, monkeypatch, case, checkpointed):
    hardware = {"gradient_checkpointing": checkpointed}
    params = params_in(home, monkeypatch, CASES[case], hardware=hardware)
    batches = BATCHES
    if case == "kontext":
        batches = [replace(each, references=[(16, 16)]) for each in BATCHES]
    asked = asked_in(home, batches)
    base = base_of(asked, "flux2")
    predicted = measure(params, base, asked)
    method = method_of(params, base)
    rows = rows_of(params, base, LENGTHS, predicted_denoiser(base))
    state = create_state(params, Artifacts(), method, Peers(), rows.factor)
    weights = stored_bytes(tensors_of(networks_of(state.model)))
    batch = batch_of(batches[0], rows, state.model.denoiser)
    with LiveBytes() as live:
        for _ in range(min(2, params.training.gradient_accumulation)):
            state.backward(method.losses(state.model, batch).sum())
    memory = predicted.memory
    assert memory.weights == weights
    assert memory.average == stored_bytes(state.ema.average)
    gradients = {name: p.grad for name, p in state.trainable.items() if p.grad is not None}
    assert memory.gradients == stored_bytes(gradients)
    assert memory.gradients + memory.activations == pytest.approx(live.most, rel=0.02)
    assert predicted.num_trainable == sum(p.numel() for p in state.trainable.values())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_each_optimizer_remembers_was_predicted(home, monkeypatch, kind):
    params = params_in(home, monkeypatch, {"optimizer": {"type": kind}})
    base = base_of(asked_in(home), "flux2")
    predicted = measure(params, base, asked_in(home))
    rows = rows_of(params, base, LENGTHS, predicted_denoiser(base))
    state = create_state(params, Artifacts(), method_of(params, base), Peers(), rows.factor)
    for p in state.trainable.values():
        p.grad = torch.full_like(p, 1e-3)
    state.advance()
    kept = state.checkpoint_bytes()
    spread = 0.1 if kind == "prodigy" else 0.02  # it remembers no start of weights that are zero
    assert predicted.memory.slots == pytest.approx(kept["optimizer"], rel=spread)
    assert predicted.checkpoint == {**kept, "optimizer": predicted.memory.slots}


def test_text_encoders_that_learn_are_there_too(tmp_path, monkeypatch):
    toys.make_base(tmp_path / "data/base", "sdxl")
    lora = {"rank": 2, "target_modules": ["all-linear"], "train_text_encoder": True}
    model = {"type": "sdxl"}
    params = params_in(tmp_path, monkeypatch, {"method": "lora", "lora": lora}, model=model)
    asked = replace(asked_in(tmp_path), lengths={"clip_l": 12, "clip_g": 12})
    base = base_of(asked, "sdxl")
    method = method_of(params, base)
    predicted = measure(params, base, asked)
    rows = rows_of(params, base, asked.lengths, predicted_denoiser(base))
    state = create_state(params, Artifacts(), method, Peers(), rows.factor)
    batch = batch_of(BATCHES[0], rows, state.model.denoiser)
    with LiveBytes() as live:
        state.backward(method.losses(state.model, batch).sum())
    memory = predicted.memory
    assert predicted.num_trainable == sum(p.numel() for p in state.trainable.values())
    taken = stored_bytes(tensors_of(networks_of(state.model)))
    assert memory.weights == pytest.approx(taken, abs=200), "but for the empty prompt's tokens"
    assert memory.gradients + memory.activations == pytest.approx(live.most, rel=0.02)


def test_pictures_that_are_encoded_meanwhile_need_their_autoencoder(home, monkeypatch):
    params = params_in(home, monkeypatch)
    base = base_of(asked_in(home), "flux2")
    cached = measure(params, base, asked_in(home)).memory
    live = measure(params, base, asked_in(home, live_batch=4)).memory
    autoencoder = load_autoencoder(
        read_record(Path("data/base/vae.json")).folders["vae"], torch.float32
    )
    with LiveBytes() as taken, torch.no_grad():
        autoencoder.encode_rows(torch.empty(4, 3, BATCHES[0].height, BATCHES[0].width))
    assert live.weights - cached.weights == stored_bytes(tensors_of([autoencoder]))
    assert live.activations - cached.activations == pytest.approx(taken.most, rel=0.02)


def predicted_denoiser(base):
    with torch.device("meta"):
        return base.kind.denoiser(base.kind.denoiser.NETWORK(base.denoiser))


def test_gradients_that_are_stepped_at_once_are_never_all_there(home, monkeypatch):
    params = params_in(home, monkeypatch)
    asked = asked_in(home)
    base = base_of(asked, "flux2")
    settings = params.training
    optimizer = replace(settings.optimizer, fused_backward=True)
    before = measure(params, base, asked).memory
    fused = replace(params, training=replace(settings, optimizer=optimizer))
    after = measure(fused, base, asked).memory
    assert after.gradients == 0
    assert after.total < before.total


def test_remedies_are_tried_until_the_training_fits(home, monkeypatch):
    params = params_in(home, monkeypatch, {"batch_size": 3})
    asked = asked_in(home)
    base = base_of(asked, "flux2")
    needed = measure(params, base, asked).memory.total
    (first, *_) = remedies(params, base, asked, limit=needed - 1)
    assert first.settings == {"hardware.gradient_checkpointing": True}
    everything = remedies(params, base, asked, limit=0)
    totals = [needed, *(remedy.memory.total for remedy in everything)]
    assert totals == sorted(totals, reverse=True)
    keys = [key for remedy in everything for key in remedy.settings]
    assert {"training.batch_size", "model.dtype", "training.optimizer.type"} <= set(keys)
    assert asked.batches == BATCHES, "what is asked stays"


def test_two_steps_are_timed_where_the_base_is_here_and_fits(home, monkeypatch):
    params_in(home, monkeypatch)
    found = answer(asked_in(home))
    assert found.seconds is not None
    assert len(found.seconds.micro_batches) == len(found.seconds.validations) == len(BATCHES)
    assert min(*found.seconds.micro_batches, found.seconds.optimizer) > 0
    assert not found.remedies
    assert found.text_row == 4 * 5 * 48
    refused = answer(asked_in(home, device_bytes=1000))
    assert refused.seconds is None
    assert refused.remedies
    assert refused.machine.total == 1000


def test_encoders_are_timed_where_rows_are_missing_and_they_fit(home, monkeypatch):
    params = params_in(home, monkeypatch)
    calls = EncoderCalls(2, [[32, 32], [32, 16], [16, 16]], has_texts=True)
    found = time_encoders(params, asked_in(home, encoding=calls), free=10**9)
    assert len(found.pictures) == 3
    assert min(*found.pictures, found.texts, found.loading) > 0
    only_texts = asked_in(home, encoding=replace(calls, pictures=[]))
    assert time_encoders(params, only_texts, free=10**9).pictures == []
    only_pictures = asked_in(home, encoding=replace(calls, has_texts=False))
    assert time_encoders(params, only_pictures, free=10**9).texts == 0
    assert time_encoders(params, asked_in(home, encoding=calls), free=1000) is None, "too large"
    assert time_encoders(params, asked_in(home), free=10**9) is None, "nothing is missing"


def test_what_lies_between_two_sizes_lies_on_a_line():
    assert on_a_line([40, 20, 10], [8.0, 2.0]) == pytest.approx([8.0, 4.0, 2.0])
    assert on_a_line([7], [3.0]) == [3.0]
    assert on_a_line([7, 7], [3.0, 5.0]) == [3.0, 3.0]


def test_a_container_has_the_memory_that_it_is_given(tmp_path):
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    whole = host_memory(limit, used)
    limit.write_text("max\n")
    assert host_memory(limit, used)[0] == whole[0]
    limit.write_text("1000000\n")
    used.write_text("400000\n")
    assert host_memory(limit, used) == (1000000, 600000)


def test_divided_weights_are_whole_block_by_block(home, monkeypatch):
    params = params_in(home, monkeypatch)
    asked = asked_in(home)
    base = base_of(asked, "flux2")
    whole = measure(params, base, asked).memory
    alone = measure(replace(params, sharding="full", processes=1), base, asked).memory
    many = measure(replace(params, sharding="full", processes=1000), base, asked).memory
    assert alone.slots == whole.slots
    assert alone.weights - whole.weights == many.weights - whole.weights // 1000
    assert many.slots == whole.slots // 1000
    assert many.activations == whole.activations
