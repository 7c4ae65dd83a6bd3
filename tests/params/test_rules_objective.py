"""A key of the objective that nothing reads is refused in one sentence."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from stages.params.compose import load_config
from stages.params.model import Model, Scheduler, Transformer
from stages.params.objective import Objective
from stages.params.rules_objective import READ_WITH, broken_objective


def problems(family="flux2", embeds=None, **settings):
    type_ = "ddpm" if family == "sdxl" else "flow_matching"
    transformer = None if embeds is None else Transformer(8, 1, 1, 8, guidance_embeds=embeds)
    model = Model(type=family, transformer=transformer)
    return list(broken_objective(Objective(**{"type": type_} | settings), model))


@pytest.mark.parametrize("family", ["sdxl", "flux", "flux2", "sd3"])
def test_the_defaults_hold_for_every_family(family):
    assert problems(family) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"logit_mean": 0.5, "timestep_sampling": "mode"}, "leave it at 0"),
        (
            {"logit_std": 2.0, "timestep_sampling": "uniform"},
            "'logit_normal' or 'sigmoid' reads it",
        ),
        ({"mode_scale": 0.5}, "mode_scale: 0.5 given, but only timestep_sampling 'mode' reads it"),
        ({"base_tokens": 4096}, "and resolution_shift is null: leave it at 256"),
        ({"max_tokens": 9, "resolution_shift": "sd3"}, "only resolution_shift 'flux' reads it"),
        ({"max_shift": 2.0, "resolution_shift": "flux2"}, "leave it at 1.15"),
        ({"snr_gamma": 1.0, "weighting": "cosmap"}, "only weighting 'min_snr' reads it"),
        ({"huber_delta": 0.1}, "only loss 'huber' or 'smooth_l1' reads it and loss is 'mse'"),
        ({"noise_offset": 0.1}, "only type 'ddpm' reads it"),
        ({"weighting": "min_snr"}, "'flow_matching' has none, sigma_sqrt, cosmap: set one of"),
        ({"resolution_shift": "flux", "base_tokens": 4096}, "more than base_tokens (4096)"),
        ({"guidance": 3.5, "embeds": False}, "this model of model.type 'flux2' embeds none: set 1"),
        ({"guidance": 3.5, "family": "sd3"}, "guidance: 3.5 given"),
        ({"guidance": 3.5, "family": "sdxl"}, "guidance: 3.5 given"),
        ({"weighting": "cosmap", "family": "sdxl"}, "'ddpm' has none, min_snr, debiased"),
        ({"resolution_shift": "sd3", "family": "sdxl"}, "only type 'flow_matching' reads it"),
    ],
)
def test_what_is_not_read_is_refused(settings, said):
    (problem,) = problems(**settings)
    assert said in problem
    assert problem.startswith("training.objective.")
    assert "\n" not in problem


@pytest.mark.parametrize(
    "settings",
    [
        {"logit_mean": 0.5, "logit_std": 0.8},
        {"timestep_sampling": "sigmoid", "logit_std": 0.8},
        {"timestep_sampling": "mode", "mode_scale": 1.0},
        {"resolution_shift": "flux", "base_tokens": 64, "max_shift": 2.0},
        {"resolution_shift": "sd3", "base_tokens": 4096, "shift": 3.0},
        {"loss": "huber", "huber_delta": 0.1, "weighting": "cosmap"},
        {"guidance": 3.5, "embeds": True},
        {"guidance": 3.5},
        {"family": "sdxl", "weighting": "min_snr", "snr_gamma": 1.0, "noise_offset": 0.05},
    ],
)
def test_what_is_read_is_taken(settings):
    assert problems(**settings) == []


def test_every_rule_names_keys_of_the_objective():
    for name, (other, values) in READ_WITH.items():
        for value in values:
            Objective(**{other: value})
        assert hasattr(Objective(), name)


@pytest.mark.parametrize(
    ("scheduler", "weighting", "said"),
    [
        ({"type": "flow_matching"}, "none", "has no data at its last time anyhow: set false"),
        ({"type": "ddpm", "prediction_type": "epsilon"}, "none", "set 'v_prediction'"),
        (
            {"type": "ddpm", "prediction_type": "v_prediction"},
            "min_snr",
            "counts the last timestep",
        ),
    ],
)
def test_zero_terminal_snr_is_refused_where_it_makes_no_sense(scheduler, weighting, said):
    model = Model(type="sdxl", scheduler=Scheduler(zero_terminal_snr=True, **scheduler))
    objective = Objective(type="ddpm", weighting=weighting)
    (problem,) = broken_objective(objective, model)
    assert said in problem


@pytest.mark.parametrize("known", ["v_prediction", None])
def test_zero_terminal_snr_is_taken_for_v_and_for_a_base_that_will_say(known):
    scheduler = Scheduler(type="ddpm", prediction_type=known, zero_terminal_snr=True)
    model = Model(type="sdxl", pretrained_path="x", scheduler=scheduler)
    assert list(broken_objective(Objective(type="ddpm"), model)) == []


MODELS = Path(__file__).parents[2] / "params/models"
DEFAULTS = {  # what a released model's preset says of the objective, by family
    "sdxl": {"type": "ddpm", "timestep_sampling": "uniform"},
    "flux": {"resolution_shift": "flux"},
    "flux2": {"resolution_shift": "flux2"},
    "sd3": {"shift": 3.0},
}
RELEASED = [path.stem for path in MODELS.glob("*.yaml") if not path.stem.endswith("_tiny")]


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_a_released_model_is_trained_by_its_familys_objective(name):
    config = OmegaConf.to_container(load_config(MODELS / f"{name}.yaml"))
    objective = Objective(**config["training"]["objective"])
    assert objective == Objective(**DEFAULTS[config["model"]["type"]])
    assert objective.guidance == 1
    transformer = config["model"]["transformer"]
    sizes = None if transformer is None else Transformer(**transformer)
    model = Model(type=config["model"]["type"], transformer=sizes)
    assert list(broken_objective(objective, model)) == []
