"""Why a row will be encoded, what that takes, and that this is what the stages then do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stages.artifacts import extra_metadata, read_table, write_table
from stages.rows.keys import key_of, parts_text
from stages.rows.location import store_root
from stages.store.__main__ import main
from stages.store.expected import Params, expected_captions, expected_pictures
from stages.store.explain import explain
from stages.store.report import forecast
from stages.store.stored import StoredRows
from tests.encode.workspaces import (
    LATENTS,
    PROMPTS,
    CaptionRecorder,
    Recorder,
    encode_pictures,
    encode_texts,
)

PARAMS = Params("flux2", "float32", batch_size=4, threads=1, train_path="pictures", store=None)


def encode():
    encode_pictures(Recorder())
    encode_texts(CaptionRecorder())


def said(asked, params=PARAMS):
    expected = [*expected_pictures(params), *expected_captions(params)]
    return "\n".join(explain(store_root(None), asked, expected))


def cells(table):
    return [list(column.cells) for column in table.columns]


def test_what_is_expected_is_what_the_stages_hash(workspace):
    encode()
    for path, schema, expected in [
        (LATENTS, "latents", expected_pictures(PARAMS)),
        (PROMPTS, "prompts", expected_captions(PARAMS)),
    ]:
        manifest = read_table(path, schema)
        rows = StoredRows(store_root(None), "latents" if path == LATENTS else "text")
        assert extra_metadata(manifest)["generation"] == expected[0].parts["generation"]
        for wanted in expected:
            stored, differing = rows.nearest(wanted)
            assert differing == {}
            assert stored.key in manifest["key"].to_pylist()
            complete = {**stored.parts, **wanted.parts}
            text = json.dumps(complete, sort_keys=True, separators=(",", ":"))
            assert key_of(text) == stored.key


@pytest.mark.parametrize("name", ["3.png", "pictures/3.png", "./pictures/3.png", "sample id"])
def test_a_picture_is_found_by_path_and_sample(workspace, name):
    if name == "sample id":
        name = workspace.pictures[3]["sample_id"]
    assert "will be encoded: the store has no row of it" in said(name)
    encode()
    assert "@32/target0/0': is stored as" in said(name)


def test_a_changed_crop_is_named_with_what_it_was(workspace):
    encode()
    workspace.pictures[3]["crop_left"] += 1
    workspace.write()
    assert "will be encoded: geometry: [" in said("3.png")
    assert "] was [" in said("3.png")
    assert "is stored as" in said("4.png")


def test_a_changed_parameter_is_named_for_pictures_and_captions(workspace):
    encode()
    params = replace(PARAMS, batch_size=2, dtype="bfloat16")
    for asked in ("3.png", "picture number 3"):
        assert "batch_size: 2 was 4, dtype: bfloat16 was float32 in the nearest" in said(
            asked, params
        )


def test_a_changed_base_is_named_by_its_digests(workspace):
    encode()
    path = Path("data/base/vae.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": "ab" * 32}))
    assert "will be encoded: encoder: abababababab… was " in said("3.png")


def test_a_key_tells_what_it_is_the_hash_of_and_who_uses_it(workspace):
    encode()
    name = read_table(LATENTS, "latents")["key"][0].as_py()
    told = said(name[:10])
    assert "  geometry: [" in told
    assert "  used by " in told


def test_what_is_called_nothing_is_one_sentence(workspace):
    with pytest.raises(ValueError, match=r"'7777.png' is no picture of .* no caption of"):
        said("7777.png")


def test_a_long_list_is_expected_as_the_stage_shortens_it():
    text = parts_text(ids=list(range(100)))
    assert set(json.loads(text)["ids"]) == {"sha256", "length"}


def test_the_forecast_is_what_encoding_then_does(workspace):
    expected = expected_pictures(PARAMS)
    kinds, lacking, there, needed = cells(forecast(store_root(None), expected))
    assert (kinds, lacking, there) == (["latents"], ["10"], ["0"])
    encode()
    places = read_table(LATENTS, "latents").to_pylist()
    values = sum(row["channels"] * row["height"] * row["width"] for row in places)
    assert needed == [f"{4 * values / 1e3:.1f} kB"]
    both = [*expected, *expected_captions(PARAMS)]
    assert cells(forecast(store_root(None), both))[1:] == [
        ["0", "0"],
        ["10", "11"],
        ["0 B", "0 B"],
    ]


def test_pictures_that_were_not_cached_before_are_expected_like_new_ones(workspace):
    """`data.cache_latents: false` leaves a manifest of the same encoder, which encoded nothing."""
    encode()
    of_live = dict(extra_metadata(read_table(LATENTS, "latents")))
    del of_live["generation"]
    write_table(LATENTS, read_table(LATENTS, "latents"), "latents", of_live)
    assert all("generation" not in each.parts for each in expected_pictures(PARAMS))
    _, lacking, there, _ = cells(forecast(store_root(None), expected_pictures(PARAMS)))
    assert (lacking, there) == (["0"], ["10"])


def test_the_commands_say_what_is_there(workspace, capsys):
    encode()
    main(["report"])
    told = capsys.readouterr().out
    assert "latents-" in told
    assert " float32" in told
    assert str(Path("data/latents.parquet").absolute()) in told.replace("\n", "")
    main(["report", "--forecast"])
    assert "to encode" in capsys.readouterr().out
    main(["explain", "3.png"])
    assert "'" in capsys.readouterr().out
    main(["check"])
    assert "all as they were written" in capsys.readouterr().out
    main(["gc"])
    assert "nothing was removed: add --yes" in capsys.readouterr().out
    main(["gc", "--yes", "--unused-for", "0"])
    assert "freed" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"store explain: '7777.png' is no picture"):
        main(["explain", "7777.png"])
