"""Components on disk: strict, deterministic, and known by what they hold."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from modelzoo.checkpoints.digest import component_digest
from modelzoo.checkpoints.folder import load_component, load_strict, save_component

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


def test_pickled_weights_are_refused_with_the_reason(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="runs whatever code"):
        load_component(tmp_path)


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
