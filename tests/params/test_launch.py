from __future__ import annotations

from dataclasses import dataclass

import pytest

from stages import launch


@dataclass(frozen=True)
class Params:
    """Nothing that it would have to read."""


def never(params: Params) -> None:
    raise AssertionError("the stage has run")


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("--help", 0, "python -m stages.train"),
        ("--learning-rate=1", 2, "unrecognized arguments: --learning-rate=1"),
    ],
)
def test_a_command_line_is_answered_and_runs_nothing(
    given: str,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["stages.train", given])
    with pytest.raises(SystemExit) as ended:
        launch.main("train", never, Params)
    assert ended.value.code == code
    assert said in "".join(capsys.readouterr())
