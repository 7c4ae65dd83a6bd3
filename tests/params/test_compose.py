"""Files compose by `_base_` lists, and each mistake names its file."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from stages.params.compose import compose, load_config


def write(folder: Path, **files: str) -> Path:
    """Write files by stem and return the last."""
    for stem, text in files.items():
        path = folder / f"{stem}.yaml"
        path.write_text(text)
    return path


def test_a_later_base_wins_and_the_file_itself_comes_last(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        first="training: {steps: 1, batch_size: 1, log_every: 1}",
        second="training: {batch_size: 2, log_every: 2}",
        own="_base_: [first.yaml, second.yaml]\ntraining: {log_every: 3}",
    )
    assert compose(path)["training"] == {"steps": 1, "batch_size": 2, "log_every": 3}


def test_a_base_is_found_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write(tmp_path / "deep", base="_base_: er/bottom.yaml\n")
    write(tmp_path / "deep" / "er", bottom="experiment: {seed: 7}")
    path = write(tmp_path, own="_base_:\n  - deep/base.yaml\n")
    assert compose(path) == {"experiment": {"seed": 7}}


def test_the_command_line_wins_over_the_file_and_is_read_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, own="training: {steps: 1, ema: {decay: 0.5}}")
    overrides = ["training.learning_rate=1e-5", "training.ema=null", "data.train_path=data/raw/a"]
    composed = compose(path, [*overrides, "training.validation.timesteps=[0.25, 0.5]"])
    assert composed["training"] == {
        "steps": 1,
        "learning_rate": 1e-5,
        "ema": None,
        "validation": {"timesteps": [0.25, 0.5]},
    }
    assert composed["data"] == {"train_path": "data/raw/a"}


def test_a_list_of_a_later_file_replaces_the_earlier_one(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        base="model: {type: flux2, unet: {transformer_depth: [1, 2, 10]}}",
        own="_base_: [base.yaml]\nmodel: {unet: {transformer_depth: [3]}}",
    )
    assert compose(path)["model"]["unet"]["transformer_depth"] == [3]


def test_interpolations_see_the_composed_values(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        base="experiment: {name: base}\ntraining: {checkpoint: {every: '${training.steps}'}}",
        own="_base_: [base.yaml]\nexperiment: {name: own}\ntraining: {steps: 12}",
    )
    config = load_config(path)
    assert config.training.checkpoint.every == 12
    assert config.experiment.output_dir == "outputs/own"


def test_what_no_file_gives_is_missing_only_when_it_is_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, own="experiment: {seed: 1}"))
    assert OmegaConf.is_missing(config.data, "train_path")
    with pytest.raises(MissingMandatoryValue):
        _ = config.experiment.name


def test_a_circle_of_bases_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, a="_base_: [b.yaml]", b="_base_: [a.yaml]")
    with pytest.raises(ValueError, match=r"b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        compose(path)


def test_a_base_used_twice_is_no_circle(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        common="training: {steps: 5}",
        a="_base_: [common.yaml]",
        b="_base_: [common.yaml]",
        own="_base_: [a.yaml, b.yaml]",
    )
    assert compose(path) == {"training": {"steps": 5}}


def test_a_base_that_is_not_there_is_named_with_its_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, flux="{}", own="_base_: [flx.yaml]")
    message = r"own\.yaml: _base_ names .*flx\.yaml, which is not there; did you mean flux\.yaml\?"
    with pytest.raises(FileNotFoundError, match=message):
        compose(path)


def test_an_unknown_key_names_its_own_file(tmp_path: Path) -> None:
    path = write(tmp_path, base="training: {learning_rat: 1}", own="_base_: [base.yaml]")
    message = r"base\.yaml: training\.learning_rat: unknown key; did you mean 'learning_rate'\?"
    with pytest.raises(ValueError, match=message):
        compose(path)


def test_an_unknown_key_on_the_command_line_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, own="{}")
    with pytest.raises(ValueError, match=r"command line: trainin: unknown key; did you mean"):
        compose(path, ["trainin.steps=1"])


@pytest.mark.parametrize("text", ["training.steps", "=3", "training..steps=3"])
def test_what_is_not_key_and_value_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="key=value expected"):
        compose(write(tmp_path, own="{}"), [text])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1\n", "a mapping of sections expected, list found"),
        ("training: [\n", "not valid YAML"),
        ("training: {steps: 1, steps: 2}\n", "'steps' is there twice"),
        ("_base_: {a: 1}\n", "_base_: .* given, a list of files expected"),
        ("training: 3\n", "training: 3 given, a mapping of keys expected"),
        ("training: null\n", "training: None given, a mapping of keys expected"),
        ("experiment: {name: '${'}\n", "own.yaml"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_sentence(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        compose(write(tmp_path, own=text))
    assert "\n" not in str(error.value)


def test_two_values_of_one_setting_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, own="training: {learning_rate: 1.0e-4, optimizer: {lr: 1.0e-5}}")
    message = r"training\.learning_rate \(0\.0001\) and training\.optimizer\.lr \(1e-05\)"
    with pytest.raises(ValueError, match=message):
        compose(path)
    same = ["training.optimizer.lr=1e-4"]
    assert compose(path, same)["training"]["learning_rate"] == 1e-4


def test_two_places_of_one_store_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, own="data: {store: a, cache_dir: b}")
    with pytest.raises(ValueError, match=r"data\.store \('a'\) and data\.cache_dir \('b'\)"):
        compose(path)
