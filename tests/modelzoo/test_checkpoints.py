"""Components on disk: strict, deterministic, and known by what they hold."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file

from modelzoo.checkpoints.digest import component_digest
from modelzoo.checkpoints.folder import load_component, load_strict, save_component
from modelzoo.checkpoints.stream import Joined, MemorySource, SafetensorsFile, Selection

STATE = {
    "b.weight": torch.arange(6.0).view(2, 3),
    "a.bias": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
}
CONFIG = {"_class_name": "Toy", "_diffusers_version": "0.42.1", "size": 3}


def test_what_is_saved_is_loaded(tmp_path):
    save_component(STATE, CONFIG, tmp_path)
    config, state = load_component(tmp_path)
    assert config == CONFIG
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[k], v) and state[k].dtype == v.dtype for k, v in STATE.items())


def test_the_file_is_the_one_that_the_safetensors_library_writes(tmp_path):
    save_component(STATE, CONFIG, tmp_path)
    save_file(STATE, tmp_path / "theirs", {"format": "pt"})
    ours = (tmp_path / "diffusion_pytorch_model.safetensors").read_bytes()
    assert ours == (tmp_path / "theirs").read_bytes()


def test_saving_twice_gives_the_same_bytes(tmp_path):
    save_component(STATE, CONFIG, tmp_path / "one")
    turned = {k: STATE[k].clone() for k in reversed(STATE)}
    save_component(turned, dict(reversed(CONFIG.items())), tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_shards_are_read_as_one_component(tmp_path):
    save_component(STATE, CONFIG, tmp_path, max_shard_bytes=8)
    assert len(list(tmp_path.glob("*-of-00003.safetensors"))) == 3
    state = load_component(tmp_path)[1]
    assert all(torch.equal(state[k], v) for k, v in STATE.items())
    (tmp_path / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="00002-of-00003"):
        load_component(tmp_path)


def test_shards_and_their_index_are_those_that_hugging_face_writes(tmp_path):
    state = {f"layer{i}": torch.full((size,), float(i)) for i, size in enumerate((3, 1, 4, 2, 2))}
    save_component(state, CONFIG, tmp_path, max_shard_bytes=20)
    expected = split_torch_state_dict_into_shards(
        state,
        max_shard_size=20,
        filename_pattern="diffusion_pytorch_model{suffix}.safetensors",
    )
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index == {"metadata": expected.metadata, "weight_map": expected.tensor_to_filename}
    for file, names in expected.filename_to_tensors.items():
        assert sorted(load_file(tmp_path / file)) == sorted(names)


def test_nothing_is_written_beside_weights_that_might_be_read_instead(tmp_path):
    save_component(STATE, CONFIG, tmp_path, max_shard_bytes=8)
    with pytest.raises(FileExistsError, match="00001-of-00003"):
        save_component(STATE, CONFIG, tmp_path)
    save_component(STATE, CONFIG, tmp_path, max_shard_bytes=8)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickled_weights_are_refused_with_the_reason(suffix, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / f"diffusion_pytorch_model{suffix}"
    torch.save({}, file)
    for load, given in [
        (load_component, tmp_path),
        (load_component, file),
        (SafetensorsFile, file),
    ]:
        with pytest.raises(ValueError, match="is a pickle, and loading one runs whatever code"):
            load(given)


def test_a_file_that_is_no_safetensors_file_is_told_from_one_cut_short(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438167536\n")
    with pytest.raises(ValueError, match="is not a safetensors file, whatever its name says"):
        SafetensorsFile(file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        SafetensorsFile(file)
    save_file(STATE, file)
    whole = file.read_bytes()
    for kept in (len(whole) - 1, 40):
        file.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=f"has {kept} bytes, but its header speaks of"):
            SafetensorsFile(file)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        SafetensorsFile(tmp_path / "y.safetensors")


def test_a_variant_alone_is_not_taken_for_the_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file(STATE, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(FileNotFoundError, match=r"only \['diffusion_pytorch_model.fp16"):
        load_component(tmp_path)


def test_a_tensor_in_two_shards_is_refused():
    twice = [MemorySource({"a": torch.zeros(1)}, where, "toy") for where in ("one", "two")]
    with pytest.raises(ValueError, match=r"two and one both hold \['a'\]"):
        Joined(twice, "folder", "toy")


class Refusing(MemorySource):
    """Names and shapes, but no values: whoever asks for one has not looked at the names first."""

    def load(self, name):
        raise AssertionError(f"{name} was loaded")


def test_names_and_shapes_are_compared_before_anything_is_loaded():
    source = Refusing({"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, "toy", "BFL FLUX.1")
    assert "weight" in source
    assert "bias" not in source
    kept = Selection(source, {"other": "scale"})
    assert list(kept) == ["other"]
    with pytest.raises(ValueError, match=r"taken for those of the BFL FLUX\.1 layout: 1 missing"):
        load_strict(torch.nn.Linear(3, 2), source, "toy")


def test_whole_numbers_are_no_weights():
    """As quantised files hold them: their shapes fit, their values mean something else."""
    state = {"weight": torch.zeros(2, 3, dtype=torch.int8), "bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"weight is torch\.int8, needs torch\.float32"):
        load_strict(torch.nn.Linear(3, 2), state, "toy")


MEASURE = """
import sys, threading, time
from pathlib import Path
import torch
from torch import nn
from modelzoo.checkpoints.folder import load_component, load_strict

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

def watch():
    while not done.is_set():
        peaks.append(anonymous())
        time.sleep(0.001)

with torch.device("meta"):
    small = nn.Linear(2, 2)
load_strict(small, small.to_empty(device="cpu").state_dict(), "warming up: torch imports lazily")
with torch.device("meta"):
    module = nn.Sequential(*[nn.Linear(1000, 2000, bias=False) for _ in range(24)])
    module.to(getattr(torch, sys.argv[2]))
before, peaks, done = anonymous(), [], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
load_strict(module, load_component(Path(sys.argv[1]))[1], "toy")
done.set()
watcher.join()
size = sum(p.nbytes for p in module.parameters())
assert anonymous() - before > 0.95 * size
print((max(peaks) - before) / size)
"""


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory):
    """192 MB in float32, whole and sharded."""
    folder = tmp_path_factory.mktemp("large")
    state = {f"{i}.weight": torch.full((2000, 1000), float(i)) for i in range(24)}
    save_component(state, CONFIG, folder / "whole")
    save_component(state, CONFIG, folder / "sharded", max_shard_bytes=50_000_000)
    return folder


@pytest.mark.parametrize(
    ("layout", "dtype"), [("whole", "float32"), ("whole", "bfloat16"), ("sharded", "float32")]
)
def test_loading_needs_the_memory_of_one_copy(layout, dtype, large_folder):
    """Pages of mapped files do not count: the system takes them back when it needs them."""
    command = [sys.executable, "-c", MEASURE, str(large_folder / layout), dtype]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) < 1.15


def test_what_is_absent_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_component(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="there are no weights"):
        load_component(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        component_digest(tmp_path / "nowhere")


def test_keys_that_do_not_fit_are_listed():
    module = torch.nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}
    with pytest.raises(ValueError, match="toy does not fit Linear") as error:
        load_strict(module, state, "toy")
    for part in ("1 missing: ['bias']", "1 surplus: ['scale']", "weight is [2, 4], needs [2, 3]"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="12 surplus") as error:
        load_strict(
            module, {**module.state_dict(), **{f"x{i:02}": state["scale"] for i in range(12)}}, ""
        )
    assert "x09" in str(error.value)
    assert "x10" not in str(error.value)


def test_a_module_on_meta_becomes_real_in_its_own_dtype():
    with torch.device("meta"):
        module = torch.nn.Linear(3, 2).to(torch.bfloat16)
    state = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    load_strict(module, state, "toy")
    assert module.weight.dtype == torch.bfloat16
    assert torch.equal(module.weight, state["weight"].bfloat16())


def test_loaded_weights_do_not_hang_on_the_file(tmp_path):
    """Training writes into them, and their alignment must not depend on where they came from."""
    source = torch.nn.Linear(3, 2)
    save_component(source.state_dict(), CONFIG, tmp_path)
    before = (tmp_path / "diffusion_pytorch_model.safetensors").read_bytes()
    module = load_strict(torch.nn.Linear(3, 2), load_component(tmp_path)[1], tmp_path)
    with torch.no_grad():
        module.weight.zero_()
    assert (tmp_path / "diffusion_pytorch_model.safetensors").read_bytes() == before
    assert module.weight.data_ptr() % 64 == 0


def test_a_digest_is_of_the_content_not_of_the_layout(tmp_path):
    save_component(STATE, CONFIG, tmp_path / "whole")
    save_component(STATE, {**CONFIG, "_name_or_path": "/home/me"}, tmp_path / "shards", "model", 8)
    save_file(STATE, tmp_path / "whole" / "diffusion_pytorch_model.safetensors", {"by": "someone"})
    assert component_digest(tmp_path / "whole") == component_digest(tmp_path / "shards")


@pytest.mark.parametrize(
    ("state", "config"),
    [
        ({**STATE, "count": torch.tensor(8)}, CONFIG),
        ({**STATE, "a.bias": STATE["a.bias"].view(torch.float16)}, CONFIG),  # the same bytes
        ({**STATE, "b.weight": STATE["b.weight"].view(3, 2)}, CONFIG),
        ({("c.weight" if k == "b.weight" else k): v for k, v in STATE.items()}, CONFIG),
        (STATE, {**CONFIG, "size": 4}),
        (STATE, {**CONFIG, "_class_name": "Other"}),
    ],
)
def test_a_digest_notices_every_change(state, config, tmp_path):
    save_component(STATE, CONFIG, tmp_path / "one")
    save_component(state, config, tmp_path / "two")
    assert component_digest(tmp_path / "one") != component_digest(tmp_path / "two")


def test_a_folder_without_weights_counts_as_its_files(tmp_path):
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"shift": 3.0}))
    before = component_digest(tmp_path)
    assert component_digest(tmp_path) == before
    (tmp_path / "scheduler_config.json").rename(tmp_path / "other.json")
    assert component_digest(tmp_path) != before
