"""Pictures while training: they show the weights at hand, and training does not notice."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import sample
from stages.artifacts import read_json, write_json
from stages.params.outputs import Prompt, Sample
from stages.params.tracking import Tracking
from stages.tracking import Run
from stages.train.grids import Draw
from stages.train.stage import create_trainer, run, weights_fingerprint
from tests import toys
from tests.train.test_lora import awake

SAMPLE = {"steps": 2, "cfg_scale": 2.0, "seed": 1}
SIDES = {"width": 32, "height": 16}
LORA = {"method": "lora", "ema": None, "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.2}}
LENGTH = {"steps": 8, "checkpoint": {"every": 3, "keep": 9}, "validation": {"every": 4}}
CASES = {
    "averaged": ({}, {}, {}),
    "lora": ({}, {**LORA}, {}),
    "kontext": (
        {"references": (1,)},
        {"editing": "kontext", "kontext": {"time_offset": 5.0}},
        {"references": ["seen.png"]},
    ),
    "controlnet": (
        {"has_conditions": True},
        {"method": "controlnet", "controlnet": {"conditioning_scale": 2.0}},
        {"condition": "seen.png"},
    ),
    "control_lora": (
        {"has_conditions": True},
        {"method": "controlnet", "controlnet": {"kind": "lora"}, "lora": {"rank": 2}},
        {"condition": "seen.png"},
    ),
}


@pytest.fixture
def make(make_workspace):
    """Make a workspace whose base has all its parts, and which draws prompts while it trains."""

    def make(case="averaged", family="flux2", every=3):
        sizes, training, pictures = CASES[case]
        workspace = awake(make_workspace(family=family, **sizes))
        base, whole = workspace.root / "data/base", workspace.root / "whole"
        toys.make_base(whole, family)
        shutil.copy(whole / "tokenizer.json", base)
        for name in ("vae", "text_encoder"):  # whose digests the rows know
            known = {"digest": read_json(base / f"{name}.json")["digest"]}
            write_json(base / f"{name}.json", read_json(whole / f"{name}.json") | known)
        Image.linear_gradient("L").resize((32, 16)).convert("RGB").save(workspace.root / "seen.png")
        texts = ("handwritten digits one", "", "never drawn")
        prompts = [{"prompt": text, **SIDES, **pictures} for text in texts]
        workspace.tree["sample"] = {**SAMPLE, "prompts": prompts, "pictures": "."}
        workspace.tree["tracking"]["samples"] = {"every": every, "prompts": 2}
        return workspace, workspace.params(**{**LENGTH, **training})

    return make


def quiet(workspace):
    """Return the parameters of the same training without pictures."""
    workspace.tree["tracking"]["samples"] = None
    given = workspace.tree["training"]
    return workspace.params(**given)


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def grids(workspace):
    (folder,) = (workspace.root / "data/train_grids").iterdir()
    return bytes_of(folder)


def below_title(content):
    """Return the part of a grid's file where its two pictures are."""
    with Image.open(io.BytesIO(content)) as grid:
        return np.asarray(grid.crop((0, 80, 308, grid.height))).astype(int)


def forget(workspace):
    shutil.rmtree(workspace.output)
    shutil.rmtree(workspace.store / "checkpoints")


@pytest.mark.parametrize("case", CASES)
def test_training_ends_with_the_same_bytes_with_and_without(make, case):
    workspace, params = make(case)
    run(params)
    drawn, watched = grids(workspace), bytes_of(workspace.output)
    assert sorted(drawn) == [f"step-{step:08d}.png" for step in (0, 3, 6, 8)]
    shown = [below_title(content).tobytes() for content in drawn.values()]
    assert len(set(shown)) == 4, "each shows the weights of its step"
    forget(workspace)
    alone = quiet(workspace)
    assert weights_fingerprint(alone) == weights_fingerprint(params)
    run(alone)
    assert bytes_of(workspace.output) == watched


def test_the_last_grid_is_what_the_sample_stage_draws(make):
    workspace, params = make()
    run(params)
    prompts = [Prompt("handwritten digits one", **SIDES), Prompt("", **SIDES)]
    asked = Sample(prompts=prompts, **SAMPLE)
    sample.run(sample.Params("toy", "flux2", "float32", asked, 1, Tracking(mlflow=False)))
    drawn = below_title(grids(workspace)["step-00000008.png"])
    expected = below_title(Path("data/sample/grid.png").read_bytes())
    assert np.ptp(drawn) > 100
    assert np.abs(drawn - expected).max() <= 2  # texts are encoded one by one


def test_a_resumed_training_draws_what_is_missing_and_nothing_of_the_past(make):
    workspace, params = make()
    run(params)
    undisturbed = grids(workspace)
    forget(workspace)
    shutil.rmtree(workspace.root / "data/train_grids")
    trainer = create_trainer(params)
    advance = trainer.state.advance

    def advance_until_killed():
        advance()
        if trainer.state.step == 5:
            raise KeyboardInterrupt

    trainer.state.advance = advance_until_killed
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    before = grids(workspace)
    assert sorted(before) == ["step-00000000.png", "step-00000003.png"]
    for path in (workspace.root / "data/train_grids").rglob("*.png"):
        path.unlink()
    run(params)
    assert before | grids(workspace) == undisturbed
    assert sorted(grids(workspace)) == ["step-00000006.png", "step-00000008.png"]


def test_a_process_that_is_not_the_first_draws_and_writes_nothing(make):
    workspace, params = make()
    trainer = create_trainer(params)
    trainer.state.peers.rank = 1
    drawn = []
    draw = trainer.grids.draw
    object.__setattr__(trainer.grids, "draw", lambda *given: drawn.append(given) or draw(*given))
    Draw(trainer.grids, workspace.root / "grids", Run(), is_compiled=False)(trainer.state)
    assert len(drawn) == 1
    assert not (workspace.root / "grids").exists()


def test_a_picture_that_is_not_there_ends_training_before_it_begins(make):
    workspace, params = make("controlnet")
    (workspace.root / "seen.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"sample.prompts\[0\]: the picture 'seen.png'"):
        run(params)
    assert not list((workspace.store / "checkpoints").rglob("step-*"))


def test_prompts_that_name_nothing_to_follow_end_training_before_it_begins(make):
    workspace, _ = make("controlnet")
    for prompt in workspace.tree["sample"]["prompts"]:
        del prompt["condition"]
    params = workspace.params(**workspace.tree["training"])
    with pytest.raises(ValueError, match=r"sample.prompts\[0\]: a ControlNet was trained, but"):
        run(params)
    assert not list((workspace.store / "checkpoints").rglob("step-*"))
