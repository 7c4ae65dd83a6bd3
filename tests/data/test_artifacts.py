from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from stages import artifacts
from stages.tables import SCHEMAS, to_table

ROWS = [{"sample_id": str(i), "variant": 0, "caption": "x" * (i % 5)} for i in range(1000)]


def interrupted_write(path: Path) -> None:
    with artifacts.staging(path) as staged:
        staged.write_text("ne")
        raise KeyboardInterrupt


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    artifacts.write_text(path, "old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with artifacts.staging(path) as staged:
            staged.mkdir()
            (staged / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_behind_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "stale").write_text("stale")
    with artifacts.staging(tmp_path / "out") as staged:
        assert not staged.exists()
        staged.mkdir()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), artifacts.staging(tmp_path / "out"):
        pass


def test_json_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "a.json", {"b": 1, "a": "ü"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": "ü",\n  "b": 1\n}\n'
    assert artifacts.read_json(tmp_path / "a.json") == {"a": "ü", "b": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.write_json(tmp_path / "a.json", float("nan"))


def test_broken_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON \(Expecting value: line 1"):
        artifacts.read_json(tmp_path / "a.json")


def test_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    whole = to_table(ROWS, "captions")
    chunked = pa.concat_tables([to_table(ROWS[:300], "captions"), to_table(ROWS[300:], "captions")])
    artifacts.write_table(tmp_path / "a", whole, "captions", {"family": "flux2", "encoder": "e"})
    artifacts.write_table(tmp_path / "b", chunked, "captions", {"encoder": "e", "family": "flux2"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = artifacts.read_table(tmp_path / "a", "captions")
    assert read.to_pylist() == ROWS
    assert artifacts.extra_metadata(read) == {"family": "flux2", "encoder": "e"}


def test_a_table_without_rows_can_be_read_again(tmp_path: Path) -> None:
    artifacts.write_table(tmp_path / "a", to_table([], "captions"), "captions")
    assert artifacts.read_table(tmp_path / "a", "captions").num_rows == 0


def test_another_table_is_refused_by_name(tmp_path: Path) -> None:
    artifacts.write_table(tmp_path / "a", to_table(ROWS, "captions"), "captions")
    with pytest.raises(ValueError, match=r"a holds table 'captions' .* but 'prompts' .* is needed"):
        artifacts.read_table(tmp_path / "a", "prompts")


def test_other_columns_are_refused_with_both_schemas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.write_table(tmp_path / "a", to_table(ROWS, "captions"), "captions")
    monkeypatch.setitem(SCHEMAS, "captions", pa.schema([("sample_id", pa.int32())]))
    with pytest.raises(ValueError, match=r"(?s)caption: string not null.*sample_id: int32"):
        artifacts.read_table(tmp_path / "a", "captions")
    with pytest.raises(ValueError, match=r"(?s)caption: string not null.*sample_id: int32"):
        artifacts.write_table(tmp_path / "b", pa.table({"caption": ["a"]}, CAPTION), "captions")


CAPTION = pa.schema([pa.field("caption", pa.string(), nullable=False)])


@pytest.mark.parametrize("row", [{"sample_id": "a"}, {**ROWS[0], "surplus": 1}])
def test_rows_have_exactly_the_columns_of_their_table(row: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="a row for table 'captions' has the columns"):
        to_table([row], "captions")


def test_a_null_in_a_column_that_has_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="caption"):
        artifacts.write_table(
            tmp_path / "a", to_table([{"sample_id": "a", "caption": None}], "captions"), "captions"
        )


def test_a_table_that_is_not_there_or_no_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run `dvc repro`"):
        artifacts.read_table(tmp_path / "a", "captions")
    (tmp_path / "a").write_text("hello")
    with pytest.raises(ValueError, match="a is not a parquet file"):
        artifacts.read_table(tmp_path / "a", "captions")


def test_digests_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert artifacts.sha256_file(tmp_path / "a") == artifacts.sha256_text("abc") == abc
