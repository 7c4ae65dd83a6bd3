"""Batches on a GPU grow while that helps and shrink where memory ends; on a CPU they stay."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.encoding.batch import LARGEST_BATCH, FixedBatch, GrowingBatch
from tests.encode.workspaces import LATENTS, PICTURES, Recorder, all_rows, encode_pictures


class SmallMemory(Recorder):
    """An autoencoder that runs out of memory above some number of pictures."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def encode_rows(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().encode_rows(images)

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]


def growing(monkeypatch, seconds, first=2):
    """A batching whose call of so many items takes `seconds(size)`, and the sizes it was given."""
    sizes, now = [], [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("stages.encoding.batch.time", clock)

    def encode(batch):
        sizes.append(len(batch))
        now[0] += seconds(len(batch))
        return {"mean": batch.astype(np.float32)}

    return GrowingBatch(np.asarray, encode, first, "cuda", {}, 1e-3).batches(), sizes


def encode_all(batches, num_items):
    left = list(range(num_items))
    rows = []
    while left:
        size = batches.next_size(len(left))
        rows += batches.encode_inputs([np.array([item]) for item in left[:size]])["mean"].tolist()
        left = left[size:]
    assert rows == [[item] for item in range(num_items)]


def test_a_batch_doubles_until_that_is_no_faster(monkeypatch):
    batches, sizes = growing(monkeypatch, lambda size: 0.02 if size <= 8 else 0.02 * size / 8)
    encode_all(batches, 80)
    assert sizes == [2, 2, 4, 4, 8, 8, 16, 16, 8, 8, 4]


def test_a_batch_stops_growing_in_time(monkeypatch):
    batches, sizes = growing(monkeypatch, lambda size: 0.0005, first=LARGEST_BATCH // 2)
    encode_all(batches, 5 * LARGEST_BATCH)
    assert max(sizes) <= LARGEST_BATCH


def test_running_out_of_memory_halves_the_batch_and_goes_on(workspace):
    for seed in range(10, 30):
        workspace.add_picture(seed)
    workspace.write()
    encode_pictures(Recorder(), device="cuda")
    expected = all_rows(LATENTS, "latents")
    small = SmallMemory(3)
    (workspace.root / "store").rename("elsewhere")
    params = dataclasses.replace(PICTURES, batch_size=8)
    assert encode_pictures(small, params, device="cuda").encoded == 30
    assert max(small.sizes) == 2  # of 8, 4, 2
    found = all_rows(LATENTS, "latents")
    assert found.keys() == expected.keys()  # neither batch size nor memory is in a key
    for key, row in found.items():
        values, others = (np.frombuffer(each, np.float32) for each in (row, expected[key]))
        np.testing.assert_allclose(values, others, atol=1e-3)


def test_a_picture_too_large_for_the_gpu_is_one_sentence(workspace):
    small = SmallMemory(1)
    small.encode_rows = lambda images: (
        SmallMemory.encode_rows(small, images) if images.shape[-1] < 64 else raise_out_of_memory()
    )
    with pytest.raises(ValueError, match=r"one item of shape \(32, 64, 3\) needs more memory"):
        encode_pictures(small, device="cuda")


def raise_out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_batch_too_large_for_a_cpu_is_one_sentence(workspace):
    with pytest.raises(ValueError, match=r"^hardware.encode_batch_size: 4 items of .* lower it"):
        encode_pictures(SmallMemory(3))


def test_what_torch_says_when_a_cpu_is_out_of_memory_is_understood():
    def encode(batch):
        torch.empty(2**50, dtype=torch.uint8)

    batches = FixedBatch(np.asarray, encode, 1, 1, {}).batches()
    with pytest.raises(ValueError, match="need more memory than there is"):
        batches.encode_inputs([np.zeros(1)])


def test_rows_of_a_gpu_are_not_taken_for_rows_of_a_cpu(workspace):
    encode_pictures(Recorder())
    assert encode_pictures(Recorder(), device="cuda").encoded == 10
    assert encode_pictures(Recorder(), device="cuda").reused == 10
    params = dataclasses.replace(PICTURES, batch_size=3, threads=2)
    assert encode_pictures(Recorder(), params, device="cuda").reused == 10
