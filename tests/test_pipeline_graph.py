"""dvc.yaml, the imports and the stages' own declarations must tell the same story."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import grimp
import pytest
import yaml

from stages.params.read import declared_keys, modules
from stages.preflight import asking
from stages.train import stage as train

ROOT = Path(__file__).parents[1]
GRAPHS = {
    name: stanza
    for file in ("dvc.yaml", "data/raw/dvc.yaml")
    for name, stanza in yaml.safe_load((ROOT / file).read_text())["stages"].items()
}
IMPORTS = grimp.build_graph("stages", "modelzoo", cache_dir=None)
PACKAGE = Path("stages/__init__.py")  # runs before every stage, and pins the instruction set


def entry(name: str) -> str:
    """Return the module that holds the stage's Params and Artifacts."""
    return f"stages.{name}.stage" if (ROOT / "stages" / name).is_dir() else f"stages.{name}"


def source(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def imported(name: str) -> set[str]:
    """Return all modules that starting the stage imports, those behind params included."""
    package = f"stages.{name}"
    is_package = bool(IMPORTS.find_children(package))
    found = {package} | IMPORTS.find_upstream_modules(package, as_package=is_package)
    if is_package:
        found |= IMPORTS.find_descendants(package)
    if params := getattr(importlib.import_module(entry(name)), "Params", None):
        for module in modules(params):
            found |= {module} | IMPORTS.find_upstream_modules(module)
    return found


def started(name: str) -> set[str]:
    """Return what a stage starts as a process, which counts where its answers decide."""
    if name != "preflight":
        return set()
    found = {asking.MODULE} | IMPORTS.find_upstream_modules(asking.MODULE, as_package=True)
    found |= IMPORTS.find_descendants(asking.MODULE)
    for module in modules(train.Params):
        found |= {module} | IMPORTS.find_upstream_modules(module)
    return found


def listed(name: str) -> list[Path]:
    return [Path(dep) for dep in GRAPHS[name]["deps"] if dep.startswith(("stages", "modelzoo"))]


def is_listed(path: Path, name: str) -> bool:
    return any(path.is_relative_to(dep) for dep in listed(name))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_stage_lists_every_module_it_imports(name):
    for module in imported(name) | started(name):
        path = source(module)
        empty = path.name == "__init__.py" and not IMPORTS.find_modules_directly_imported_by(module)
        assert empty or is_listed(path, name), (
            f"stage {name!r} imports {module}, which its deps do not list: "
            f"editing {path} would not rerun the stage"
        )
    assert PACKAGE in listed(name)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_stage_lists_no_code_it_does_not_import(name):
    sources = {source(module) for module in imported(name) | started(name)} | {PACKAGE}
    for dep in listed(name):
        assert any(path.is_relative_to(dep) for path in sources), (
            f"stage {name!r} lists {dep}, which it does not import: "
            f"editing it would rerun the stage for nothing"
        )


@pytest.mark.parametrize("name", GRAPHS)
def test_a_stage_imports_no_other_stage(name):
    reached = {module.split(".")[1] for module in imported(name) if module.startswith("stages.")}
    assert not reached & (GRAPHS.keys() - {name})


@pytest.mark.parametrize("name", GRAPHS)
def test_a_stage_declares_the_parameters_it_reads(name):
    params = getattr(importlib.import_module(entry(name)), "Params", None)
    declared = declared_keys(params) if params else []
    assert sorted(GRAPHS[name].get("params", [])) == sorted(declared)


def files(name: str, kind: str) -> set[str]:
    """Return the paths under data/ that a stanza names as outputs or inputs."""
    kinds = ("deps",) if kind == "in" else ("outs", "metrics", "plots")
    listed = [entry for each in kinds for entry in GRAPHS[name].get(each, [])]
    paths = {entry if isinstance(entry, str) else next(iter(entry)) for entry in listed}
    return {path for path in paths if path.startswith("data/")}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_stage_names_its_artifacts(name):
    artifacts = importlib.import_module(entry(name)).Artifacts()
    named = files(name, "in") | files(name, "out")
    for path in paths_of(artifacts):
        if path.parts[0] == "data":
            assert any(
                Path(each).is_relative_to(path) or path.is_relative_to(each) for each in named
            ), f"stage {name!r} uses {path}, which its stanza does not name"


def paths_of(value: object) -> list[Path]:
    if isinstance(value, Path):
        return [value]
    if dataclasses.is_dataclass(value):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
        return [path for part in parts for path in paths_of(part)]
    return []


def test_every_stage_has_one_name():
    for name, stanza in GRAPHS.items():
        assert stanza["cmd"] == f"python -m stages.{name}"
        assert stanza["desc"]


def test_editing_the_trainer_re_encodes_nothing():
    for name in ("encode_images", "encode_captions", "ingest", "bucket"):
        for path in ("stages/train/loop.py", "modelzoo/flux/v2/transformer.py"):
            assert not is_listed(Path(path), name)


def test_editing_the_autoencoder_re_encodes_pictures_and_no_captions():
    path = Path("modelzoo/autoencoders/flux2.py")
    assert is_listed(path, "encode_images")
    assert not is_listed(path, "encode_captions")
