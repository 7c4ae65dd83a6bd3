"""One file of weights as the base, completed by a folder: what it becomes, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from modelzoo.checkpoints.convert import read_folder
from modelzoo.checkpoints.single_file import save_single_file
from stages.artifacts import read_json
from stages.base_record import Record, read_record
from stages.generation import BASE_COMPONENTS, Generator, load_generator
from stages.params.use import dump
from stages.prepare_base.stage import Artifacts, Params, run
from tests import toys

FOLDERS = {"flux": "transformer", "sdxl": "unet"}
LAYOUTS = {"flux": "bfl", "sdxl": "stability"}
HELD = {"flux": ["transformer"], "sdxl": ["text_encoder", "text_encoder_2", "unet", "vae"]}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=FOLDERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, its single file as its family publishes it, and a folder with the rest; read only."""
    home = tmp_path_factory.mktemp("file") / request.param
    toys.make_base(home / "base", request.param)
    _, components = read_folder(home / "base" / "model", request.param)
    if request.param == "flux":
        components = {"transformer": components["transformer"]}
    layout = LAYOUTS[request.param]
    save_single_file(components, home / "model.safetensors", layout, request.param)
    shutil.copytree(home / "base" / "model", home / "rest")
    for name in HELD[request.param]:
        shutil.rmtree(home / "rest" / name)
    return home


def params(made: Path, **changes: Any) -> Params:
    file, rest = made / "model.safetensors", made / "rest"
    model = dataclasses.replace(
        toys.section(made.name, rest),
        from_scratch=None,
        pretrained_path=str(file),
        components=str(rest),
        source=str(file),
        **{name: None for name in ("transformer", "unet", "vae", "text_encoder")},
    )
    return Params(dataclasses.replace(model, **changes), 0, 1, ".txt")


def records(base: Path) -> dict[str, Record]:
    return {name: read_record(base / f"{name}.json") for name in (*BASE_COMPONENTS, "denoiser")}


def generator(family: str, base: dict[str, Record]) -> Generator:
    return load_generator(family, base["denoiser"].folders[FOLDERS[family]], base, "float32")


def test_a_file_becomes_the_base_it_was_written_from(made: Path, tmp_path: Path) -> None:
    run(params(made), Artifacts(tmp_path / "base"))
    ours, theirs = records(tmp_path / "base"), records(made / "base")
    for name, record in theirs.items():
        for part, one in record.parts.items():
            home = tmp_path / "base" / "model" if part in HELD[made.name] else made / "rest"
            assert ours[name].parts[part].path == home / part
            assert ours[name].parts[part].class_name == one.class_name
    assert ours["denoiser"].digest == theirs["denoiser"].digest
    index = read_json(tmp_path / "base" / "model" / "model_index.json")
    assert index == read_json(made / "rest" / "model_index.json")


def test_the_base_of_a_file_encodes_and_decodes_as_the_one_it_was_written_from(
    made: Path, tmp_path: Path
) -> None:
    run(params(made), Artifacts(tmp_path / "base"))
    ours = generator(made.name, records(tmp_path / "base"))
    theirs = generator(made.name, records(made / "base"))
    rows, expected = (g.conditions(["digits", ""], 32, 16) for g in (ours, theirs))
    for name, row in expected.items():
        torch.testing.assert_close(rows[name], row, rtol=0, atol=0)
    latents = torch.randn(1, ours.autoencoder.latent_channels, 4, 4)
    assert torch.equal(ours.decode(latents), theirs.decode(latents))


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("another family", "is a model of type"),
        ("a LoRA", "is a LoRA, which changes a model and is none"),
        ("a part missing", "has no ['tokenizer_2'], and"),
        ("a family's folder missing", "has no model_index.json"),
        ("no denoiser", "holds only ['vae']: give the file of the"),
        ("a tensor missing", "model.safetensors"),
        ("other sizes", "asks for"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    made: Path, tmp_path: Path, mistake: str, said: str
) -> None:
    broken = tmp_path / made.name
    shutil.copytree(made / "rest", broken / "rest")
    shutil.copy(made / "model.safetensors", broken / "model.safetensors")
    given = params(broken, **spoil(mistake, broken, made))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run(given, Artifacts(tmp_path / "data" / "base"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").iterdir())


def spoil(mistake: str, broken: Path, made: Path) -> dict[str, Any]:
    """Make a mistake, and give what changes of the section `model`."""
    file = broken / "model.safetensors"
    if mistake == "another family":
        return {"type": "flux" if made.name == "sdxl" else "sdxl"}
    if mistake == "a LoRA":
        save_file({"transformer.blocks.0.lora_A.weight": torch.zeros(2, 2)}, file)
    if mistake == "a part missing":
        shutil.rmtree(broken / "rest" / "tokenizer_2")
    if mistake == "a family's folder missing":
        (broken / "rest" / "model_index.json").unlink()
    if mistake == "no denoiser":
        _, components = read_folder(made / "base" / "model", made.name)
        save_single_file({"vae": components["vae"]}, file, LAYOUTS[made.name], made.name)
    if mistake == "a tensor missing":
        with safe_open(file, framework="pt") as opened:
            state = {name: opened.get_tensor(name) for name in list(opened.keys())[1:]}
            save_file(state, file, opened.metadata())
    if mistake == "other sizes":
        asked = toys.section(made.name, broken)
        key = "num_layers" if made.name == "flux" else "num_res_blocks"
        sizes = dataclasses.replace(getattr(asked, FOLDERS[made.name]), **{key: 2})
        return {FOLDERS[made.name]: sizes, "vae": asked.vae}
    return {}


def test_as_a_process_a_broken_file_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("<html>a web page</html>")
    given = {"from_scratch": None, "pretrained_path": str(file), "components": "rest"}
    model = dataclasses.asdict(toys.section("flux", tmp_path, **given))
    sections = {
        "experiment": {"name": "a", "output_dir": "a"},
        "data": {"train_path": "data"},
        "hardware": {},
    }
    (tmp_path / "params.yaml").write_text(dump({"model": model, **sections}))
    command = [sys.executable, "-m", "stages.prepare_base"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"prepare_base: {file} of 23 bytes is not a safetensors file" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "data").iterdir())
