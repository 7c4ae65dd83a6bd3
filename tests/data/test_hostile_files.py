"""Whatever lies in a dataset's folder ends in the ledger, and nothing ends the stage."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages.artifacts import read_table
from tests.data import hostile
from tests.data.hostile import Expected
from tests.data.ingesting import Ingested, artifacts, ingest

ROOT = Path(__file__).parents[2]
pytest.importorskip("pillow_heif")  # makes the HEIC among them


@dataclass(frozen=True)
class Folder:
    root: Path
    expected: dict[str, Expected]
    found: Ingested


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    place = tmp_path_factory.mktemp("hostile")
    expected = hostile.write(place / "pictures")
    return Folder(place, expected, ingest(place / "pictures", place / "out", max_bad_fraction=1.0))


def test_there_are_more_than_a_hundred_of_them(folder: Folder) -> None:
    bad = [each for each in folder.expected.values() if each.fate == "quarantined"]
    assert len(bad) > 100
    assert len(folder.expected) > 200


def test_every_hostile_file_is_in_the_ledger_once(folder: Folder) -> None:
    assert sorted(folder.found.fates) == sorted(folder.expected)


def test_every_hostile_file_ends_as_expected(folder: Folder) -> None:
    notes = {row["path"]: row["notes"] for row in folder.found.rows}
    differing = {
        path: (fate, reason, notes.get(path, ""), folder.expected.get(path))
        for path, (fate, reason) in folder.found.fates.items()
        if hostile.differs(folder.expected[path], fate, reason, notes.get(path, ""))
    }
    assert differing == {}


def test_reasons_and_notes_are_short_and_name_no_place(folder: Folder) -> None:
    for row in folder.found.ledger:
        assert len(row["reason"]) < 350
        assert "\n" not in row["reason"].replace(row["path"], "")
        assert str(folder.root) not in row["reason"]
        assert " at 0x" not in row["reason"]


def test_the_kept_ones_are_rows_of_their_own_size(folder: Folder) -> None:
    targets = folder.found.targets
    assert set(targets) == {p for p, (fate, _) in folder.found.fates.items() if fate == "kept"}
    assert (targets["unusual/turned_6.jpg"]["width"], targets["unusual/row.png"]["width"]) == (
        36,
        10000,
    )
    assert targets["captions/mark.png"]["captions"] == ["with a byte order mark"]
    assert targets["captions/nuls.png"]["captions"] == ["nul\0nul"]
    assert targets["names/new\nline.png"]["captions"] == ["picture 2"]


def test_as_a_process_it_ends_well_without_a_word_on_stderr(folder: Folder) -> None:
    workspace = folder.root / "workspace"
    workspace.mkdir()
    (workspace / "params.yaml").write_text(
        "data: {train_path: ../pictures, max_bad_fraction: 1.0, validation_fraction: 0.0}\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "default", "-m", "stages.ingest"],
        cwd=workspace,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.stderr == ""
    assert result.returncode == 0
    counts, quarantined, aside = result.stdout.splitlines()
    assert " pictures to train on, " in counts
    assert quarantined.startswith("quarantined: ")
    assert aside.startswith("left aside: ")
    mine = read_table(workspace / "data/ledger/ingest.parquet", "ledger")
    assert mine == read_table(artifacts(folder.root / "out").ledger, "ledger")


def test_a_link_to_itself_is_quarantined(tmp_path: Path) -> None:
    hostile.photo(1).save(tmp_path / "a.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    found = ingest(tmp_path, tmp_path.parent / "out")
    assert found.fates["loop.png"] == ("quarantined", "a link to nothing")
