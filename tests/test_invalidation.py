"""What a change costs is what docs/invalidation.md says: by the graph, the keys, a real store."""

from __future__ import annotations

import pytest
import torch

from stages import encode_captions
from stages.artifacts import read_table
from stages.encode_images import stage as encode_images
from stages.params.read import read
from tests import invalidation
from tests.invalidation import CHANGES, ELSEWHERE, STAGES, Change

LINES = [line for line in invalidation.TABLE.read_text().splitlines() if line.startswith("| ")]
WRITTEN = {name: cells for name, *cells in ([c.strip() for c in x.split("|")[1:-1]] for x in LINES)}
REAL = {  # a handful of lines, run through the real encoders
    "nothing",
    "a caption edited",
    "a picture added",
    "a picture removed",
    "`data.flip` = true",
    "`data.captions.prefix` = photo of",
    "`model.dtype` = bfloat16",
    "with all roles: a mask painted over",
    "with all roles: `data.flip` = true",
}


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_costs_what_is_written(change: Change):
    assert WRITTEN[change.name.strip()] == invalidation.row(change), (
        "write docs/invalidation.md anew with `python -m tests.invalidation` and read what changed"
    )


def test_the_document_has_these_lines_and_no_others():
    assert list(WRITTEN) == ["change", *(change.name.strip() for change in CHANGES)]
    assert WRITTEN["change"] == list(STAGES)


def test_every_parameter_that_prepares_data_has_a_line():
    """A parameter that no stage before training reads can encode nothing."""
    tree = invalidation.document.load(invalidation.ROOT / "params.yaml")
    lined = {key for change in CHANGES for key in change.keys} | ELSEWHERE.keys()
    unread = set(invalidation.untouched())
    for key in invalidation.leaves(tree):
        known = any(invalidation.covers(each, key) for each in lined)
        assert known or key in unread, f"{key} is read and has no line"
    assert "training.learning_rate" in unread
    assert "data.resolution" not in unread


@pytest.mark.parametrize("name", sorted(REAL))
def test_the_real_encoders_encode_as_many_rows(name, monkeypatch, tmp_path, capsys):
    (change,) = [each for each in CHANGES if each.name.strip() == name]
    monkeypatch.setenv("DIFFBASE_STORE", str(tmp_path / "store"))
    with invalidation.world(change.has_roles) as made:
        made.run()
        encode_both()
        change.do(made)
        made.run()
        capsys.readouterr()
        encode_both()
    said = capsys.readouterr().out.splitlines()
    for stage, line in zip(("encode_images", "encode_captions"), said, strict=True):
        cell = WRITTEN[name][STAGES.index(stage)]
        wanted = cell.split()[0] if cell else "0"
        assert line.startswith(f"encoded {wanted} rows"), (stage, line, cell)


def encode_both() -> None:
    """Run both stages, each of which prints what it encoded."""
    encode_images.run(read(encode_images.Params))
    encode_captions.run(read(encode_captions.Params))


def test_the_keys_are_those_that_the_stage_writes(monkeypatch, tmp_path):
    """The table's keys differ from the manifest's in the generation's name alone."""
    monkeypatch.setenv("DIFFBASE_STORE", str(tmp_path / "store"))
    with invalidation.world() as made:
        state = made.run()
        encode_images.run(read(encode_images.Params))
        table = read_table(encode_images.Artifacts().latents, "latents")
    assert len(set(table["key"].to_pylist())) == len(state.rows["encode_images"])
