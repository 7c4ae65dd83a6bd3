"""A stage reads what it declares, typed, checked and light."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path

import pytest

from stages.params import schema
from stages.params.config import Config
from stages.params.data import Data
from stages.params.model import FromScratch
from stages.params.optimizer import Ema
from stages.params.read import (
    SECTIONS,
    canonical,
    declared_keys,
    key,
    modules,
    read,
    section_type,
)
from stages.params.training import Training

GIVEN = """
experiment: {name: test, output_dir: out, seed: 3}
model: {type: flux2, from_scratch: {dataset: some/where}}
training: {steps: 5, learning_rate: 1e-05, ema: {decay: 0.5}}
data: {train_path: here}
hardware: {mixed_precision: no}
"""


@dataclass(frozen=True)
class Params:
    seed: int = key("experiment.seed")
    training: Training = key("training")
    from_scratch: FromScratch | None = key("model.from_scratch")
    ema: Ema | None = key("training.ema")
    layers: int | None = key("model.text_encoder.qwen3.num_layers")
    store: str | None = key("data.store", tracked=False)


def given(tmp_path: Path, text: str = GIVEN) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_values_sections_and_parts_of_sections_are_read_typed(tmp_path: Path) -> None:
    params = read(Params, given(tmp_path))
    assert params.seed == 3
    assert params.training == Training(steps=5, learning_rate=1e-5, ema=Ema(0.5))
    assert params.from_scratch == FromScratch("some/where")
    assert params.ema == Ema(0.5)


def test_below_a_null_section_everything_is_null(tmp_path: Path) -> None:
    assert read(Params, given(tmp_path)).layers is None


def test_what_is_read_is_frozen(tmp_path: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        read(Params, given(tmp_path)).training.steps = 6  # type: ignore[misc]


def test_text_that_dvc_writes_without_quotes_stays_what_it_was(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Two:
        precision: str = key("hardware.mixed_precision")
        rate: float = key("training.learning_rate")

    assert read(Two, given(tmp_path)) == Two("no", 1e-5)


def test_only_the_declared_sections_are_checked(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class One:
        seed: int = key("experiment.seed")

    text = GIVEN.replace("steps: 5", "stps: 5")
    assert read(One, given(tmp_path, text)).seed == 3
    with pytest.raises(ValueError, match=r"training\.stps: unknown key; did you mean 'steps'\?"):
        read(Params, given(tmp_path, text))


def test_tracked_keys_are_listed_in_their_order() -> None:
    assert declared_keys(Params) == [
        "experiment.seed",
        "training",
        "model.from_scratch",
        "training.ema",
        "model.text_encoder.qwen3.num_layers",
    ]


def test_the_section_modules_behind_a_declaration_are_listed() -> None:
    names = ("data", "experiment", "model", "training")
    assert modules(Params) == [f"stages.params.{name}" for name in names]


def test_a_declaration_of_an_unknown_key_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Wrong:
        rate: float = key("training.learning_rte")

    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        read(Wrong, given(tmp_path))


def test_no_params_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m stages\.params use"):
        read(Params, tmp_path / "params.yaml")


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="section 'data' is missing"):
        read(Params, given(tmp_path, GIVEN.replace("data:", "# data:")))


def test_an_interpolation_is_not_read_as_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"experiment\.output_dir holds an interpolation"):
        read(Params, given(tmp_path, GIVEN.replace("output_dir: out", "output_dir: '${a.b}'")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: many", r"training\.steps: 'many' given, a whole number \(at least 1\) or null"),
        ("steps: -5", r"training\.steps: -5 given"),
        ("steps: 2.5", r"training\.steps: 2\.5 given"),
        ("steps: true", r"training\.steps: True given"),
        ("steps: '900'", r"training\.steps: '900' given"),
        ("batch_size: null", r"training\.batch_size: None given, a whole number \(at least 1\) ex"),
        ("ema: {decay: .nan}", r"training\.ema\.decay: nan given"),
        ("ema: 3", r"training\.ema: 3 given, a mapping of keys expected"),
        ("ema: {decy: 1}", r"training\.ema\.decy: unknown key; did you mean 'decay'\?"),
        ("method: loar", "'loar' given, one of full_finetune, lora, dreambooth, controlnet exp"),
        ("validation: {timesteps: 0.5}", r"timesteps: 0\.5 given, a list expected"),
        ("validation: {timesteps: [0.5, 2]}", r"timesteps\[1\]: 2 given, a number \(above 0 and"),
        ("{epochs: 1, steps: 2}", r"training\.epochs \(1\) and training\.steps \(2\) are both"),
        ("{learning_rate: 1, optimizer: {lr: 2}}", r"set training\.optimizer\.lr to null"),
        ("{steps: 3, lr_schedule: {warmup_steps: 4}}", r"at most training\.steps \(3\) expected"),
        ("dreambooth: {class_prompt: a}", r"training\.dreambooth\.instance_prompt is not given"),
    ],
)
def test_a_wrong_value_names_file_key_value_and_what_is_allowed(
    tmp_path: Path, text: str, said: str
) -> None:
    @dataclass(frozen=True)
    class One:
        training: Training = key("training")

    with pytest.raises(ValueError, match=said) as error:
        read(One, given(tmp_path, f"training: {text if text[0] == '{' else '{' + text + '}'}"))
    assert str(error.value).startswith(str(tmp_path / "params.yaml: "))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"resolution": 1000}, r"data\.resolution: 1000 given, a multiple of"),
        ({"resolution": 256}, r"data\.resolution: 256 given, between"),
        ({"max_bad_fraction": 1.5}, r"data\.max_bad_fraction: 1\.5 given, a number \(at least 0"),
        ({"caption_extension": "txt"}, r"an extension with its dot"),
        ({"store": "a", "cache_dir": "b"}, "two names of one place"),
    ],
)
def test_data_that_cannot_be_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schema.build(Data, {"train_path": "x", **values}, "params.yaml", "data")


def test_canonical_values_are_json_and_tell_equal_from_unequal(tmp_path: Path) -> None:
    params = read(Params, given(tmp_path))
    again = read(Params, given(tmp_path, GIVEN.replace("1e-05", "0.00001")))
    other = read(Params, given(tmp_path, GIVEN.replace("1e-05", "0.00002")))
    texts = [json.dumps(canonical(one)) for one in (params, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert canonical({"b": (1, 2.0), "a": Path("x/y")}) == {"a": "x/y", "b": [1, 2.0]}


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical(value)


def test_the_sections_by_name_are_those_of_the_whole() -> None:
    assert {name: section_type(name) for name in SECTIONS} == schema.hints(Config)
    assert list(SECTIONS) == [field.name for field in fields(Config)]


def test_reading_imports_nothing_heavy() -> None:
    code = (
        "import sys, stages.params.read; "
        "print(sorted({'torch', 'omegaconf', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
