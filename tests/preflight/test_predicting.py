"""From sizes to time, room and advice, with numbers made by hand."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from stages import needs
from stages.needs import (
    EncoderCalls,
    EncoderSeconds,
    Machine,
    Memory,
    MicroBatch,
    Needs,
    Remedy,
    Seconds,
)
from stages.params.outputs import Export
from stages.params.read import declared_keys
from stages.params.training import BatchSize, Checkpoint, Training, Validation
from stages.preflight import stage
from stages.preflight.__main__ import num_bytes
from stages.preflight.advice import refusals, warnings
from stages.preflight.disk import Disk, Item, disks_of, exported_bytes, items_of
from stages.preflight.encoding import Rows
from stages.preflight.memory import rooms_of
from stages.preflight.micro_batches import Kind, kinds_of
from stages.preflight.prediction import Prediction
from stages.preflight.time import duration_of, length_of
from stages.store.expected import Expected

GB = 10**9
MEMORY = Memory(weights=2 * GB, gradients=2 * GB, activations=3 * GB, slots=4 * GB, average=GB)
MACHINE = Machine("cpu", "CPU", 1, 16 * GB, 14 * GB, 16 * GB, 14 * GB, process=GB)
NEEDS = Needs(
    memory=MEMORY,
    machine=MACHINE,
    num_parameters=10,
    num_trainable=10,
    checkpoint={"weights": 2 * GB, "optimizer": 4 * GB},
    outcome=2 * GB,
    is_adapter=False,
    is_controlnet=False,
    denoiser=2 * GB,
    away=0,
    text_row=1000,
    parameters="f" * 64,
)


def row(sample, width, height, **changes):
    values = {"sample_id": sample, "role": "target", "resolution": 64, "variant": 0}
    values |= {"width": width, "height": height, "split": "train", "repeats": 1, "prior": False}
    return values | changes


ROWS = [
    *(row(f"a{i}", 64, 64) for i in range(5)),
    row("a0", 64, 64, variant=1),  # mirrored: no item of its own
    row("b", 32, 32, repeats=4),
    row("c", 32, 32, prior=True),
    *(row(f"v{i}", 32, 32, split="validation") for i in range(3)),
]


def test_micro_batches_are_counted_by_size_the_largest_first():
    settings = Training(
        batch_size=2, batch_sizes=[BatchSize(32, 3)], validation=Validation(images=2)
    )
    large, small = kinds_of(ROWS, settings)
    assert (large.sizes, large.num, large.num_validated) == (MicroBatch(64, 64, 2), 3, 0)
    assert (small.sizes, small.num, small.num_validated) == (MicroBatch(32, 32, 3), 2, 1)


def test_an_item_with_references_is_larger_than_its_target():
    reference = row("b", 32, 64, role="reference")
    first, *_ = kinds_of([*ROWS, reference], Training(batch_size=8))
    assert first.sizes == MicroBatch(64, 64, 5)
    kinds = kinds_of([*ROWS, reference], Training())
    (edited,) = (kind.sizes for kind in kinds if kind.sizes.references)
    assert edited.references == ((32, 64),)
    assert edited.load == 32 * 32 + 32 * 64


KINDS = [Kind(MicroBatch(64, 64, 2), 3, 0), Kind(MicroBatch(32, 32, 2), 1, 2)]


def test_epochs_become_steps_and_steps_become_seconds():
    length = length_of(KINDS, None, 3, 2, False, 1, validate_every=4, times=5)
    assert (length.steps, length.micro_batches, length.validations) == (6, 2, 3)
    seconds = Seconds(micro_batches=[1.0, 0.2], validations=[0.5, 0.1], optimizer=0.4)
    duration = duration_of(KINDS, length, seconds)
    assert duration.step == pytest.approx(2 * (3 * 1.0 + 0.2) / 4 + 0.4)
    assert duration.validation == pytest.approx(5 * 2 * 0.1)
    assert duration.total == pytest.approx(6 * duration.step + 3 * duration.validation)


def test_a_prior_doubles_micro_batches_and_processes_share_them():
    alone = length_of(KINDS, 10, None, 4, True, 1, 5, 1)
    assert alone.micro_batches == 8
    assert length_of(KINDS, 10, None, 4, True, 3, 5, 1).micro_batches == 3


def test_each_process_of_a_cpu_has_everything_and_a_gpus_weights_pass_the_cpu():
    (room,) = rooms_of(NEEDS, processes=2)
    assert (room.needed, room.total, room.free) == (2 * 13 * GB, 16 * GB, 14 * GB)
    gpu = replace(MACHINE, device="cuda", name="a GPU", num_devices=2, total=24 * GB, free=GB)
    device, host = rooms_of(replace(NEEDS, machine=gpu), processes=4)
    assert device.needed == 2 * 12 * GB  # two processes a GPU
    assert host.needed == 4 * (1 + 4) * GB  # the optimizer's file is larger than the weights
    assert gpu.room(4) == 12 * GB
    assert MACHINE.room(2) == 7 * GB


def test_what_does_not_fit_is_one_sentence_with_what_to_turn_on():
    small = replace(MACHINE, total=12 * GB)
    checkpointed = replace(MEMORY, activations=GB)
    lean = replace(checkpointed, slots=0)
    remedies = [
        Remedy({"hardware.gradient_checkpointing": True}, checkpointed),
        Remedy({"training.optimizer.type": "adafactor"}, lean),
    ]
    (said,) = refusals(replace(NEEDS, machine=small, remedies=remedies), 1, [])
    assert said == (
        "training needs 13.0 GB of memory, but there are 12.0 GB: set "
        "hardware.gradient_checkpointing: true (saves 2.0 GB), then training.optimizer.type: "
        "adafactor (saves 4.0 GB); it then needs 7.0 GB"
    )
    tiny = replace(MACHINE, total=2 * GB)
    (said,) = refusals(replace(NEEDS, machine=tiny, remedies=remedies), 1, [])
    assert said.endswith("which is still too much")
    (said,) = refusals(replace(NEEDS, machine=tiny), 1, [])
    assert said.endswith("take a smaller base or a larger machine")
    assert not list(refusals(NEEDS, 1, []))


def test_what_others_hold_now_is_a_warning():
    busy = replace(MACHINE, free=5 * GB)
    (said,) = warnings(rooms_of(replace(NEEDS, machine=busy), 1))
    assert "others leave 5.0 GB now" in said
    assert not list(warnings(rooms_of(NEEDS, 1)))


def test_a_full_disk_is_refused_by_what_is_to_be_written():
    disk = Disk([Item("rows", 3 * GB, Path("store")), Item("weights", GB, Path("data"))], GB)
    (said,) = refusals(NEEDS, 1, [disk])
    assert "4.0 GB will be written to the disk of data, store" in said
    assert "(rows 3.0 GB, weights 1.0 GB), but 1.0 GB are free" in said


def test_checkpoints_and_exports_take_their_place(tmp_path):
    kept = Checkpoint(keep=2, keep_best=True)
    items = items_of(NEEDS, 5 * GB, kept, Export(), str(tmp_path), tmp_path / "out", None)
    sizes = {item.name: item.num_bytes // GB for item in items}
    assert sizes == {
        "rows": 5,
        "checkpoints": 4 * 6,
        "weights": 4,
        "export": 4,
        "copy of the export": 2,
    }
    adapter = replace(NEEDS, is_adapter=True, outcome=GB)
    assert exported_bytes(adapter, Export(), None) == 3 * GB
    assert exported_bytes(adapter, Export(lora_formats=["peft"]), None) == GB
    assert exported_bytes(adapter, Export(merge=True), None) == 2 * GB
    (disk,) = disks_of(items)
    assert disk.needed == 39 * GB
    assert disk.free > 0


def test_needs_pass_between_processes_as_they_are():
    full = replace(
        NEEDS,
        seconds=Seconds([1.0], [0.5], 0.1),
        encoding=EncoderSeconds([2.0, 1.0], 0.2, 3.0),
        remedies=[Remedy({"training.batch_size": 1}, MEMORY)],
    )
    assert needs.needs_from(needs.to_json(full)) == full
    calls = EncoderCalls(4, [[64, 64], [32, 32]], has_texts=True)
    batches = [MicroBatch(8, 8, 2, [[4, 4]])]
    asked = needs.Asked("params.yaml", batches, {"t5": 10}, "data/base", encoding=calls)
    assert needs.asked_from(needs.to_json(asked)) == asked


def missing(width, height, kind="latents", **parts):
    geometry = [width, height, 0, 0, width, height, False]
    return Expected(kind, "a.png", (), {"geometry": geometry, **parts}, 100)


def test_what_is_missing_becomes_calls_and_calls_become_seconds():
    masked = missing(64, 32, mask="white from 128")
    pictures = [*[missing(64, 32)] * 5, masked, missing(16, 16), missing(64, 32, "masks")]
    rows = Rows(pictures, num_texts=9, batch_size=4)
    assert rows.calls() == EncoderCalls(4, [[64, 32], [16, 16]], has_texts=True)
    taken = EncoderSeconds(pictures=[10.0, 1.0], texts=0.1, loading=5.0)
    assert rows.seconds(taken) == pytest.approx((2 + 1) * 10.0 + 1.0 + 3 * 0.1 + 5.0)
    assert rows.num_bytes(text_row=7) == 8 * 100 + 9 * 7
    assert Rows([], 0, 4).calls() is None
    assert Rows([missing(8, 8, "masks")], 0, 4).calls() is None, "no encoder makes masks"


def test_a_person_is_told_how_long_encoding_takes():
    rows = Rows([missing(64, 32)] * 5, num_texts=2, batch_size=4)
    timed = replace(NEEDS, encoding=EncoderSeconds([10.0], 1.0, 4.0))
    said = list(Prediction(timed, 1, [], rows).lines())
    assert "to encode: 5 pictures and 2 texts, 2.5 kB, in 25 s" in said
    assert Prediction(timed, 1, [], rows).numbers()["encoding_seconds"] == 25.0
    assert "encoding_seconds" not in Prediction(NEEDS, 1, [], rows).numbers()


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * GB), ("1.5 GiB", 3 * 2**29), ("7", 7), ("80MB", 80 * 10**6)]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert num_bytes(text) == size


LIGHT = {  # of section `training`: what decides neither about memory nor about disk or time
    "allow_distilled",
    "caption_dropout",
    "explosion_factor",
    "kontext",
    "learning_rate",
    "log_every",
    "lr_schedule",
    "max_bad_steps",
    "posterior",
}


def test_a_parameter_either_decides_or_does_not_run_the_stage_again():
    sections = [key.split(".") for key in declared_keys(stage.Params)]
    decide = {names[1] for names in sections if names[0] == "training"}
    assert not decide & LIGHT
    assert decide | LIGHT == {field.name for field in fields(Training)}
    of_objective = {names[-1] for names in sections if "objective" in names}
    assert of_objective == {"guidance"}, "which some bases cannot be told"


def test_a_folder_of_others_for_the_export_is_refused_before_all_is_trained(tmp_path):
    (tmp_path / "thesis.txt").write_text("no export")
    with pytest.raises(ValueError, match=r"output_dir: .*did not write \('thesis.txt'\)"):
        stage.run(cast(stage.Params, SimpleNamespace(output_dir=str(tmp_path))))
