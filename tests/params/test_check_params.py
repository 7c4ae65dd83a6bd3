"""The stage lets pass what `use` writes, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.check_params import Artifacts, Params, run
from stages.params import compose, document
from stages.params.use import dump

ROOT = Path(__file__).parents[2]


def checked(tmp_path: Path, **values: Any) -> Path:
    """Run the stage over the committed params.yaml with some keys set; `DELETE` takes one out."""
    tree = document.load(ROOT / "params.yaml")
    for name, value in values.items():
        *folders, last = name.split("__")
        if value is DELETE:
            del compose.lookup({"": tree}, ".".join(["", *folders]))[last]
        else:
            compose.assign(tree, ".".join([*folders, last]), value)
    artifacts = Artifacts(tmp_path / "params.yaml", tmp_path / "data" / "params_ok.txt")
    artifacts.params.write_text(dump(tree))
    run(Params(), artifacts)
    return artifacts.passed


DELETE = object()


def test_the_output_does_not_depend_on_the_values(tmp_path: Path) -> None:
    first = checked(tmp_path).read_bytes()
    assert first == checked(tmp_path, training__learning_rate=0.5, experiment__seed=1).read_bytes()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"training__learning_rat": 1}, r"training\.learning_rat: unknown key; did you mean"),
        ({"trainin__steps": 1}, r"params\.yaml: trainin: unknown key; did you mean 'training'\?"),
        ({"training__steps": "many"}, r"training\.steps: 'many' given"),
        ({"training__ema": DELETE}, r"training\.ema is missing: write the file again"),
        ({"export": DELETE}, "export is missing"),
        ({"model__source": "data/raw/other"}, r"model\.source: 'data/raw/other' is stale"),
        ({"model__from_scratch__dataset": "x"}, r"model\.source: .* is stale, 'x' expected"),
        ({"evaluate__judge": None}, r"evaluate\.judge_path: .* is stale, 'data/raw/digits' exp"),
        ({"data__cache_dir": "c"}, r"data\.cache_dir is another name of data\.store: set data\.st"),
        ({"training__optimizer__lr": 1.0}, r"set training\.optimizer\.lr to null"),
        ({"training__epochs": 3}, r"training\.epochs \(3\) and training\.steps \(2000\)"),
        (
            {"training__method": "lora"},
            r"training\.lora is null, but training\.method 'lora' reads",
        ),
        ({"data__bucket_resolution_steps": 1}, "a multiple of 8 expected"),
        ({"experiment__output_dir": "${experiment.name}"}, "holds an interpolation"),
    ],
)
def test_what_an_edit_broke_is_one_sentence_and_no_output(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        checked(tmp_path, **values)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "params_ok.txt").exists()
