"""Which pretrained_path is a Hugging Face id, and what its pin says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from stages.check_params import Artifacts, Params, run
from stages.params import document, pins
from stages.params.config import Config
from stages.params.use import dump, use

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIN = Path("params/pins/toy--flux.json")
Use = Callable[..., Config]


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """`use` with given weights, in a workspace whose network is down."""
    shutil.copytree(ROOT / "params", tmp_path / "params", ignore=shutil.ignore_patterns("pins"))
    for name in ("digits", "digits_base", "digits_judge"):
        (tmp_path / "data" / "raw" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def with_weights(path: str, *overrides: str) -> Config:
        given = ("model.from_scratch=null", f"model.pretrained_path={path}", *overrides)
        return use(Path("params/experiments/digits_flux1.yaml"), given)

    return with_weights


def pin(requested: str, revision: str) -> None:
    PIN.parent.mkdir(exist_ok=True)
    content = {"repo": "toy/flux", "requested": requested, "revision": revision}
    PIN.write_text(json.dumps(content))


def pinned() -> tuple[str, str]:
    content = json.loads(PIN.read_text())
    assert content["repo"] == "toy/flux"
    return content["requested"], content["revision"]


def check() -> None:
    run(Params(), Artifacts(Path("params.yaml"), Path("data/params_ok.txt")))


@pytest.mark.parametrize(
    ("given", "requested"),
    [("toy/flux", "main"), ("toy/flux@v1", "v1"), (f"toy/flux@{COMMIT}", COMMIT)],
)
def test_without_a_network_what_was_asked_for_is_pinned(
    digits: Use, given: str, requested: str
) -> None:
    assert digits(given).model.source == PIN.as_posix()
    assert pinned() == (requested, requested)
    check()


def test_a_commit_in_the_cache_is_pinned_without_a_network(digits: Use, tmp_path: Path) -> None:
    cached = tmp_path / "cache" / "models--toy--flux"
    (cached / "snapshots" / COMMIT).mkdir(parents=True)
    (cached / "snapshots" / COMMIT / "model_index.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    digits("toy/flux")
    assert pinned() == ("main", COMMIT)


def test_a_commit_once_pinned_stays_until_something_else_is_asked_for(digits: Use) -> None:
    pin("main", COMMIT)
    digits("toy/flux@main")
    assert pinned() == ("main", COMMIT)
    digits("toy/flux@v2")
    assert pinned() == ("v2", "v2")


def test_a_folder_here_is_no_id_but_a_name_with_a_revision_always_is(digits: Use) -> None:
    Path("toy/flux").mkdir(parents=True)
    assert digits("toy/flux").model.source == "toy/flux"
    assert digits("toy/flux@main").model.source == PIN.as_posix()


def test_a_folder_stays_one_when_it_is_gone(digits: Use) -> None:
    Path("toy/flux").mkdir(parents=True)
    digits("toy/flux")
    shutil.rmtree("toy")
    with pytest.raises(FileNotFoundError, match=r"'toy/flux' is not there, .* say toy/flux@main"):
        check()


def test_a_misspelt_folder_beside_others_is_not_taken_for_an_id(digits: Use) -> None:
    with pytest.raises(FileNotFoundError, match=r"'data/flux' is not there"):
        digits("data/flux")
    assert not pins.FOLDER.exists()


def test_an_edited_id_or_a_lost_pin_is_refused(digits: Use) -> None:
    digits("toy/flux@v1")
    tree = document.load(Path("params.yaml"))
    tree["model"]["pretrained_path"] = "toy/flux@v2"
    Path("params.yaml").write_text(dump(tree))
    with pytest.raises(ValueError, match=r"is the pin of 'toy/flux@v1', but .* 'toy/flux@v2'"):
        check()
    PIN.unlink()
    with pytest.raises(FileNotFoundError, match=r"json' is not there, which says which commit"):
        check()


def test_a_single_file_needs_the_rest_of_its_model_and_nothing_else_does(digits: Use) -> None:
    Path("flux.safetensors").write_bytes(b"")
    Path("rest").mkdir()
    with pytest.raises(ValueError, match=r"model\.components is null, but .* is one file: give a"):
        digits("flux.safetensors")
    model = digits("flux.safetensors", "model.components=rest").model
    assert (model.source, model.components) == ("flux.safetensors", "rest")
    check()
    with pytest.raises(ValueError, match=r"'rest' given, but it completes .* that is one \.safet"):
        digits("data/raw/digits", "model.components=rest")
    with pytest.raises(FileNotFoundError, match=r"model\.components: 'gone' is not there"):
        digits("flux.safetensors", "model.components=gone")


def test_a_pickle_is_refused_before_anything_runs(digits: Use) -> None:
    Path("flux.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"'flux\.ckpt' is a file: .* \(a pickle such as \.ckpt"):
        digits("flux.ckpt")
