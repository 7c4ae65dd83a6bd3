"""A generation tells changed encoder code from unchanged, whatever the store has seen."""

import multiprocessing

import numpy as np
import pytest

from stages.rows.generation import Generation, encoder_generation, summary

PROBE = np.linspace(-2, 2, 512, dtype=np.float32)


def test_the_same_probe_stays_in_its_generation_and_rounding_does_not_leave_it(tmp_path):
    first = encoder_generation(str(tmp_path), "encoder", PROBE)
    again = encoder_generation(str(tmp_path), "encoder", PROBE * np.float32(1 + 1e-6))
    assert again.name == first.name
    np.testing.assert_array_equal(again.probe, PROBE)


def test_a_changed_formula_begins_a_generation_and_going_back_returns_to_the_old(tmp_path):
    root = str(tmp_path)
    first = encoder_generation(root, "encoder", PROBE)
    changed = encoder_generation(root, "encoder", PROBE + np.float32(0.01))
    assert changed.name != first.name
    assert encoder_generation(root, "encoder", PROBE).name == first.name


def test_names_do_not_depend_on_what_the_store_has_seen(tmp_path):
    encoder_generation(str(tmp_path / "old"), "encoder", PROBE + np.float32(0.01))
    old = encoder_generation(str(tmp_path / "old"), "encoder", PROBE)
    fresh = encoder_generation(str(tmp_path / "fresh"), "encoder", PROBE)
    assert old.name == fresh.name
    assert encoder_generation(str(tmp_path / "fresh"), "other", PROBE).name != fresh.name


def test_a_generation_travels_as_text():
    generation = Generation("0123", PROBE)
    back = Generation.from_metadata(generation.to_metadata())
    assert back.name == "0123"
    np.testing.assert_array_equal(back.probe, PROBE)
    assert back.gave(PROBE)
    assert not back.gave(PROBE * 2)


def test_a_summary_spreads_over_all_columns():
    rows = {
        "mean": np.zeros((2, 4, 30, 30), np.float32),
        "std": np.ones((2, 4, 30, 30), np.float32),
    }
    assert summary(rows).shape == (512,)
    assert summary(rows).mean() == pytest.approx(0.5)
    assert summary({"context": np.ones((1, 3, 4), np.float32)}).shape == (512,)


def begin(root, start, names, noise):
    start.wait()
    names.put(encoder_generation(root, "encoder", PROBE * np.float32(1 + noise)).name)


def test_racing_processes_agree(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    start, names = spawn.Barrier(2), spawn.Queue()
    racers = [
        spawn.Process(target=begin, args=(str(tmp_path), start, names, noise))
        for noise in (0, 1e-6)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0]  # or nobody says a name
    assert names.get() == names.get()
