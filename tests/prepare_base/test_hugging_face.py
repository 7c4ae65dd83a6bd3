"""A Hugging Face id as the base: pinned by `use`, downloaded by the stages, the same everywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.base_record import read_record
from tests import toys
from tests.fake_hub import COMMIT, FakeHub, environment, serving

ROOT = Path(__file__).parents[2]
PIN = Path("params/pins/toy--flux1.json")
SIZES = tuple(f"model.{name}=null" for name in ("transformer", "vae", "text_encoder"))
USE = ("-m", "stages.params", "use", "params/experiments/digits_flux1.yaml")
USE = (*USE, "model.from_scratch=null", *SIZES)
READ_TOKENIZERS = """
import sys
from pathlib import Path
from stages.base_record import read_record
from stages.tokenizers import open_tokenizers
open_tokenizers("flux", read_record(Path("data/base/tokenizer.json")))
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""
ASSEMBLE = """
from pathlib import Path
from stages.export.bundle import assemble
assemble(Path("exported"), Path("trained"), Path("data/base"), "transformer", {})
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy FLUX.1 as prepare_base makes it; below model/ is what the hub serves; read only."""
    base = tmp_path_factory.mktemp("hub") / "base"
    toys.make_base(base, "flux")
    model = base / "model"
    shutil.copy(
        model / "text_encoder" / "model.safetensors",
        model / "text_encoder" / "model.fp16.safetensors",
    )
    (model / "tokenizer" / "README.md").write_text("not needed")
    return base


@pytest.fixture
def hub(base: Path) -> Iterator[FakeHub]:
    other = base.parent / "other"
    other.mkdir(exist_ok=True)
    (other / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with serving({"toy/flux1": base / "model", "toy/sdxl": other}) as server:
        yield server


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parameters, and empty folders where the digits would be."""
    shutil.copytree(ROOT / "params", tmp_path / "params", ignore=shutil.ignore_patterns("pins"))
    for name in ("digits", "digits_base", "digits_judge"):
        (tmp_path / "data" / "raw" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in a process: huggingface_hub reads its settings when it is imported."""
    env = {**env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_an_id_is_pinned_by_use_and_downloaded_by_the_stages(
    hub: FakeHub, base: Path, workspace: Path
) -> None:
    online = hub.environment(workspace / "first_machine")
    used = python(online, *USE, "model.pretrained_path=toy/flux1")
    assert used.returncode == 0, used.stderr
    pin = {"repo": "toy/flux1", "requested": "main", "revision": COMMIT}
    assert json.loads(PIN.read_text()) == pin
    assert f"source: {PIN}" in Path("params.yaml").read_text()
    assert not hub.fetched

    prepared = python(online, "-m", "stages.prepare_base")
    assert prepared.returncode == 0, prepared.stderr
    assert not [name for name in hub.fetched if "fp16" in name or "README" in name]
    for component in ("denoiser", "vae", "text_encoder", "tokenizer", "scheduler"):
        found = json.loads(Path(f"data/base/{component}.json").read_text())
        made = read_record(base / f"{component}.json")
        for name, part in made.parts.items():
            assert found["parts"][name] == {
                "class_name": part.class_name,
                "digest": part.digest,
                "path": f"hub:toy/flux1@{COMMIT}/{name}",
            }

    (snapshot,) = Path("first_machine").glob("hub/models--toy--flux1/snapshots/*")
    (snapshot / "text_encoder" / "model.fp16.safetensors").write_text("by another program")
    (snapshot / "tokenizer" / "README.md").write_text("by another program")
    shutil.copytree(base / "model" / "transformer", "trained")
    offline = environment(workspace / "first_machine")
    exported = python(offline, "-c", ASSEMBLE)
    assert exported.returncode == 0, exported.stderr
    assert {path.name for path in Path("exported/text_encoder").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    assert not Path("exported/tokenizer/README.md").exists()


def test_a_stage_on_another_machine_downloads_what_it_reads_and_no_more(
    hub: FakeHub, base: Path, workspace: Path
) -> None:
    records = workspace / "data" / "base"
    records.mkdir()
    text = (base / "tokenizer.json").read_text()
    text = text.replace((base / "model").as_posix(), f"hub:toy/flux1@{COMMIT}")
    (records / "tokenizer.json").write_text(text)
    read = python(hub.environment(workspace / "second_machine"), "-c", READ_TOKENIZERS)
    assert read.returncode == 0, read.stderr
    assert {name.split("/")[0] for name in hub.fetched} == {
        "model_index.json",
        "tokenizer",
        "tokenizer_2",
    }
    again = python(environment(workspace / "second_machine"), "-c", READ_TOKENIZERS)
    assert again.returncode == 0, again.stderr
    alone = python(environment(workspace / "third_machine"), "-c", READ_TOKENIZERS)
    assert f"FileNotFoundError: toy/flux1@{COMMIT}: Hugging Face cannot be reached" in alone.stderr


def test_another_familys_repository_is_refused_before_its_weights_are_downloaded(
    hub: FakeHub, workspace: Path
) -> None:
    online = hub.environment(workspace / "home")
    assert python(online, *USE, "model.pretrained_path=toy/sdxl").returncode == 0
    refused = python(online, "-m", "stages.prepare_base")
    assert refused.returncode == 1
    assert "holds a 'StableDiffusionXLPipeline', but model.type 'flux' needs" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert hub.fetched == ["model_index.json"]
    assert not [path.name for path in (workspace / "data").glob("*base*")]


def test_without_a_network_everything_that_is_needed_is_listed(workspace: Path) -> None:
    offline = environment(workspace / "home")
    assert python(offline, *USE, "model.pretrained_path=toy/flux1").returncode == 0
    refused = python(offline, "-m", "stages.prepare_base")
    assert refused.returncode == 1
    assert refused.stderr.startswith("prepare_base: toy/flux1@main: Hugging Face cannot be reached")
    for file in ("model_index.json, ", "transformer/config.json, ", "tokenizer_2/*.json, ", "vae/"):
        assert file in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
