"""The command that converts models, and the memory that conversion takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from modelzoo.checkpoints.convert import main
from modelzoo.checkpoints.folder import load_component, read_config
from modelzoo.checkpoints.single_file import Component, open_single_file, save_single_file
from tests.parity.published_networks import TINY, assert_same, component, config_of, source, tensors

MODELS = {
    "flux": {"transformer": "flux1-fill", "vae": "flux1-vae", "clip_l": "clip", "t5": "t5"},
    "flux2": {"transformer": "flux2-klein", "vae": "flux2-vae", "qwen3": "qwen3"},
    "sd3": {"transformer": "sd3-dual", "vae": "sd3-vae", "clip_l": "clip", "clip_g": "open-clip"},
    "sdxl": {"unet": "sdxl", "vae": "sdxl-vae", "clip_l": "clip", "clip_g": "open-clip"},
}
FOLDERS = {
    "flux": {"clip_l": "text_encoder", "t5": "text_encoder_2"},
    "flux2": {"qwen3": "text_encoder"},
    "sd3": {"clip_l": "text_encoder", "clip_g": "text_encoder_2"},
    "sdxl": {"clip_l": "text_encoder", "clip_g": "text_encoder_2"},
}
MEASURE = """
import sys, threading
from pathlib import Path
import torch
from modelzoo.checkpoints.folder import load_strict
from modelzoo.checkpoints.single_file import open_single_file, save_single_file
from modelzoo.checkpoints.stream import MemorySource
from modelzoo.flux.v1.config import Flux1Config
from modelzoo.flux.v1.transformer import FluxTransformer2DModel

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))

def peak(action):
    before, highest, done = anonymous(), [0], threading.Event()
    def watch():
        while not done.wait(0.0005):
            highest[0] = max(highest[0], anonymous())
    watcher = threading.Thread(target=watch)
    watcher.start()
    result = action()
    highest[0] = max(highest[0], anonymous())
    done.set()
    watcher.join()
    return result, highest[0] - before

path = Path(sys.argv[1])
file = open_single_file(path).components
config, source = file["transformer"]
with torch.device("meta"):
    network = FluxTransformer2DModel(Flux1Config.from_dict(config)).to(torch.bfloat16)
_, written = peak(lambda: save_single_file(file, path.with_name("x.safetensors"), "comfy", "flux"))
network, loaded = peak(lambda: load_strict(network, source, path))
size = sum(parameter.nbytes for parameter in network.parameters())
print(size, loaded, written)
"""


def whole_model(family: str) -> dict[str, Component]:
    return {kind: component(name) for kind, name in MODELS[family].items()}


@pytest.mark.parametrize("family", MODELS)
def test_a_model_goes_into_a_folder_and_back_into_the_same_file(family, tmp_path, capsys):
    file, folder, back = tmp_path / "a.safetensors", tmp_path / "folder", tmp_path / "b.safetensors"
    save_single_file(whole_model(family), file, "comfy", family)
    assert main([str(file), str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        FOLDERS[family].get(kind, kind) for kind in MODELS[family]
    )
    for kind, name in MODELS[family].items():
        config, state = load_component(folder / FOLDERS[family].get(kind, kind))
        assert config == config_of(TINY[name])
        assert_same(state, tensors(name))
    assert main([str(folder), str(back), "--layout", "comfy"]) == 0
    assert "b.safetensors: " in capsys.readouterr().out
    assert back.read_bytes() == file.read_bytes()


def test_the_command_converts_one_component_and_says_what_it_wrote(tmp_path):
    file, folder = tmp_path / "flux1-dev.safetensors", tmp_path / "FLUX.1-dev"
    components = {"transformer": whole_model("flux")["transformer"]}
    save_single_file(components, file, "bfl", "flux")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modelzoo.checkpoints.convert", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    done = run(file, folder)
    assert (done.returncode, done.stdout) == (0, f"{folder / 'transformer'}: transformer\n")
    refused = run(file, folder)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"{folder} exists already: remove it, or give another target\n"
    assert main([str(folder / "transformer"), f"{folder}.safetensors", "--layout", "bfl"]) == 0
    assert Path(f"{folder}.safetensors").read_bytes() == file.read_bytes()


def test_the_command_converts_an_autoencoder_alone(tmp_path):
    file, folder = tmp_path / "ae.safetensors", tmp_path / "model"
    save_single_file({"vae": whole_model("flux")["vae"]}, file, "bfl", "flux")
    assert main([str(file), str(folder), "--family", "flux"]) == 0
    assert read_config(folder / "vae") == config_of(TINY["flux1-vae"])
    back = tmp_path / "back.safetensors"
    assert main([str(folder / "vae"), str(back), "--layout", "bfl", "--family", "flux"]) == 0
    assert_same(load_file(back), load_file(file))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing.safetensors", "x"], "there is no such file"),
        (["vae", "x.safetensors", "--layout", "bfl"], "say --family, one of ['flux', 'flux2'"),
        (["transformer", "x.safetensors"], "say --layout, one of ['bfl', 'stability', 'comfy'"),
        (["transformer", "x", "--layout", "bfl"], "is a folder, which only layout 'diffusers' has"),
        (["empty", "x"], "neither a config.json nor a folder transformer, unet or vae"),
        (["scheduler", "x"], "names class 'FlowMatchEulerDiscreteScheduler'; known are"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, reason, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    components = {k: whole_model("flux")[k] for k in ("transformer", "vae")}
    save_single_file(components, Path("file.safetensors"), "comfy", "flux")
    assert main(["file.safetensors", "."]) == 1  # a folder that exists
    assert main(["file.safetensors", "model"]) == 0
    for name in ("transformer", "vae"):
        (tmp_path / "model" / name).rename(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "scheduler").mkdir()
    text = '{"_class_name": "FlowMatchEulerDiscreteScheduler"}'
    (tmp_path / "scheduler" / "config.json").write_text(text)
    capsys.readouterr()
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert reason in said.err
    assert said.out == ""


def test_neither_loading_nor_converting_holds_a_model_twice(tmp_path):
    """Issue 3: a model of size S is loaded with 1.15 S of anonymous memory at most."""
    import torch

    from modelzoo.flux.v1.config import Flux1Config
    from modelzoo.flux.v1.transformer import FluxTransformer2DModel

    config = Flux1Config(num_layers=1, num_single_layers=2, num_attention_heads=8)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in FluxTransformer2DModel(config).state_dict().items()}
    ones = {k: torch.ones((), dtype=torch.bfloat16).expand(shape) for k, shape in shapes.items()}
    components = {"transformer": Component(config.to_dict(), source(ones))}
    path = tmp_path / "flux1.safetensors"
    save_single_file(components, path, "bfl", "flux")
    assert list(open_single_file(path).components) == ["transformer"]
    command = [sys.executable, "-c", MEASURE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, loaded, written = map(int, done.stdout.split())
    assert size > 100e6
    assert loaded < 1.15 * size, f"loading {size} bytes took {loaded}"
    assert written < 0.3 * size, f"writing {size} bytes took {written}"
