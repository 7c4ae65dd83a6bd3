"""`use` writes the resolved tree, or nothing and one sentence."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelzoo.adapters.found import digest
from stages.params import __main__ as command
from stages.params import document
from stages.params.config import Config
from stages.params.resolve import check_resolved
from stages.params.use import dump, use

ROOT = Path(__file__).parents[2]
DIGITS = "params/experiments/digits_flux2.yaml"
LORA = ("training.method=lora", "training.lora={}")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone's parameters and the maker that promises the digits."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "dvc.yaml").write_text(
        "stages:\n  make_digits:\n    wdir: ../..\n    cmd: make\n    outs:\n"
        "    - data/raw/digits\n    - data/raw/digits_base:\n        cache: true\n"
        "    - data/raw/digits_judge\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


Use = Callable[..., Config]


@pytest.fixture
def digits(workspace: Path) -> Use:
    return lambda *overrides: use(Path(DIGITS), overrides)


def test_the_committed_params_are_those_of_the_digits_experiment(digits: Use) -> None:
    digits()
    assert Path("params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_the_file_holds_every_key_in_the_schemas_order(digits: Use) -> None:
    config = digits()
    tree = document.load(Path("params.yaml"))
    assert tree == dataclasses.asdict(config)
    assert list(tree) == [field.name for field in dataclasses.fields(Config)]


def test_the_first_line_says_which_command_wrote_it(digits: Use) -> None:
    digits("training.steps=3", "training.lr_schedule.warmup_steps=0")
    first = Path("params.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# Written by `python -m stages.params use {DIGITS} training.steps=3 ")


def test_what_follows_from_other_keys_is_written(digits: Use) -> None:
    config = digits("evaluate.judge=null", "experiment.name=mine")
    assert config.model.source == "data/raw/digits_base"
    assert config.evaluate.judge_path == config.data.train_path
    assert config.experiment.output_dir == "outputs/mine"


def test_an_alias_is_written_under_the_main_name_only(workspace: Path) -> None:
    shared = Path("params/training/digits.yaml")
    shared.write_text(shared.read_text().replace("  learning_rate: 2.0e-3\n", ""))
    config = use(Path(DIGITS), ["training.optimizer.lr=3e-4", "data.cache_dir=c"])
    assert (config.training.learning_rate, config.training.optimizer.lr) == (3e-4, None)
    assert (config.data.store, config.data.cache_dir) == ("c", None)


def test_given_weights_are_the_source(digits: Use, workspace: Path) -> None:
    (workspace / "weights").mkdir()
    assert digits("model.from_scratch=null", "model.pretrained_path=weights").model.source == (
        "weights"
    )


@pytest.mark.parametrize("made", ["data/raw/mine", "data/raw/mine.dvc"])
def test_a_folder_that_is_there_or_added_to_dvc_is_accepted(digits: Use, made: str) -> None:
    if made.endswith(".dvc"):
        Path(made).write_text("outs: []\n")
    else:
        Path(made).mkdir()
    assert digits("data.train_path=data/raw/mine").data.train_path == "data/raw/mine"


@pytest.mark.parametrize("whole", ["data/raw/digits_judge", "data/raw/mine"])
def test_a_folder_in_what_dvc_makes_or_holds_is_accepted(digits: Use, whole: str) -> None:
    Path("data/raw/mine.dvc").write_text("outs: []\n")
    config = digits(f"data.train_path={whole}/pictures")
    assert config.data.train_path == f"{whole}/pictures"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.train_path=data/raw/gone"], r"data\.train_path: 'data/raw/gone' is not there"),
        (["evaluate.judge_path=gone"], r"evaluate\.judge_path: 'gone' is not there"),
        (["model.from_scratch.dataset=gone"], r"model\.from_scratch\.dataset: 'gone' is not"),
        (["data.train_path=data/raw/dvc.yaml"], "is a file: give a folder"),
        (["model.from_scratch=null", "model.pretrained_path=data/gone"], "id say data/gone@main"),
        (["model.from_scratch=null"], "both null: give one"),
        (["model.pretrained_path=x"], "set one of them to null"),
        (["model.source=elsewhere"], r"model\.source: 'elsewhere' given, but it follows from"),
        (["training.epochs=3"], r"training\.epochs \(3\) and training\.steps \(2000\)"),
        (["training.steps=null"], "both null: give one"),
        (["training.optimizer.lr=1e-5"], "two names of one setting"),
        (["training.lora={rank: 4}"], r"set training\.lora to null"),
        (["training.method=lora"], r"training\.lora is null, but training\.method 'lora' reads it"),
        ([*LORA, "training.lora.target_modules=[]"], r"target_modules is empty: give patterns"),
        (
            [*LORA, "training.lora.train_text_encoder=true"],
            "'flux2' is a language model, of which diffusers",
        ),
        (
            [*LORA, "training.lora.text_target_modules=[fc1]"],
            r"text_target_modules is given, but train_text_encoder is false",
        ),
        ([*LORA, "training.lora.init_from=gone"], r"init_from: 'gone' is not there"),
        ([*LORA, "training.lora.init_from=data"], r"init_from: data is no LoRA: give a"),
        (
            [*LORA, "training.lora.kind=lokr", "training.lora.dropout=0.1"],
            r"dropout: 0\.1 given, but training\.lora\.kind 'lokr' has none: set dropout to 0\.0",
        ),
        (["export.merge=true"], r"export\.merge: True given, but training\.lora is null"),
        (["export.lora_formats=[peft]"], r"lora_formats: \['peft'\] given, but training\.lora is"),
        (
            [*LORA, "training.lora.use_dora=true", "export.lora_formats=[comfyui]"],
            r"'comfyui' given, but adapters of this kind go into diffusers or peft alone",
        ),
        ([*LORA, "training.lora.kind=loha", "training.lora.use_dora=true"], "set use_dora to Fal"),
        (["model.type=sdxl"], r"model\.unet is null, but model\.from_scratch needs its sizes"),
        (["model.type=flux3"], r"model\.type: 'flux3' given"),
        (
            ["data.cache_latents=false", "data.crop=random", "data.crop_variants=2"],
            r"crop_variants: 2 given, .* each visit draws a crop of its own: set crop_variants to",
        ),
        (["hardware.mixed_precision=fp16"], "'fp16' cannot be run yet; available: 'no' and 'bf16'"),
        (["training.posterior=sample"], "posterior: 'sample' given, but of model"),
        (["training.objective.type=ddpm"], r"objective\.type: 'ddpm' given, .* 'flow_matching'"),
        (["model.scheduler.type=ddpm"], r"scheduler\.type: 'ddpm' given, .* has 'flow_matching'"),
        (
            ["model.unet={}"],
            r"model\.unet is given, but model\.type 'flux2' has model\.transformer",
        ),
        (["model.text_encoder.t5={}"], r"encoder\.t5 is given, but .* has qwen3 or mistral3: set"),
        (["model.text_encoder.mistral3={}"], r"\['mistral3', 'qwen3'\] given, .* exactly one"),
        (["model.transformer.axes_dims_rope=[8, 8]"], r"axes_dims_rope: \[8, 8\] given"),
        (["model.transformer.num_attention_heads=5"], r"a multiple of num_attention_heads \(5\)"),
        (["model.transformer.in_channels=16"], r"4 x model\.vae\.latent_channels \(32\) expected"),
        (["model.transformer=null"], r"model\.from_scratch needs its sizes"),
        (["model.vae.norm_num_groups=7"], r"multiples of norm_num_groups \(7\)"),
        (["model.text_encoder.qwen3.output_layers=[2, 9]"], r"rising numbers up to num_layers"),
        (["model.text_encoder.qwen3=null"], r"text_encoder: \[\] given, .* one qwen3 or mistral3"),
        (["sample.prompts=[]"], r"sample\.prompts is empty"),
        (["sample.prompts=[{prompt: a, width: 30, height: 32}]"], r"\[0\]\.width: 30 given, a mul"),
        (["sample.prompts=[{promt: a}]"], r"\[0\]\.promt: unknown key; did you mean 'prompt'\?"),
        (["experiment.name='${nope.x}'"], r"experiment\.name: .*nope"),
        (["experiment.name=null"], r"experiment\.name: None given, text expected"),
        (["evaluate.judge_path=null"], "the judge 'digits' needs its folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    digits: Use, overrides: list[str], said: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        digits(*overrides)
    assert "\n" not in str(error.value)
    assert not Path("params.yaml").exists()


def test_a_required_key_that_no_file_gives_is_named(workspace: Path) -> None:
    Path("params/own.yaml").write_text("model: {type: flux2}\nexperiment: {name: a}\n")
    with pytest.raises(ValueError, match=r"own\.yaml: data\.train_path is not given"):
        use(Path("params/own.yaml"))


FAMILIES = {"sdxl": "sdxl", "flux1": "flux", "flux2": "flux2", "sd35": "sd3"}


@pytest.mark.parametrize(("name", "family"), FAMILIES.items())
def test_the_digits_can_be_learned_with_each_family(
    workspace: Path, name: str, family: str
) -> None:
    config = use(Path(f"params/experiments/digits_{name}.yaml"))
    assert (config.model.type, config.experiment.name) == (family, f"digits_{name}")
    assert config.training.steps == 2000


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("sdxl", ["training.objective.type=flow_matching"], r"'flow_matching' given, .* 'ddpm'"),
        (
            "sdxl",
            ["training.objective.shift=3"],
            r"objective\.shift: 3 given, but the times of ddpm",
        ),
        ("sdxl", ["model.text_encoder.clip_g=null"], r"\['clip_l'\] given, .* exactly one clip_g"),
        (
            "sdxl",
            ["sample.prompts=[{prompt: a, width: 36, height: 32}]"],
            "36 given, a multiple of 16",
        ),
        (
            "flux1",
            ["model.unet={}"],
            r"model\.unet is given, but model\.type 'flux' has .*transformer",
        ),
        ("flux1", ["model.text_encoder.clip_g={}"], r"clip_g is given, .* has clip_l and t5"),
        ("flux1", ["model.text_encoder.t5=null"], r"\['clip_l'\] given, .* needs exactly one t5"),
        ("sd35", ["model.text_encoder.qwen3={}"], r"qwen3 is given, .* clip_l and clip_g and t5"),
    ],
)
def test_what_another_family_has_is_refused(
    workspace: Path, name: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        use(Path(f"params/experiments/digits_{name}.yaml"), overrides)
    assert not Path("params.yaml").exists()


def test_sd35_may_do_without_t5(workspace: Path) -> None:
    config = use(Path("params/experiments/digits_sd35.yaml"), ["model.text_encoder.t5=null"])
    assert config.model.text_encoder is not None
    assert config.model.text_encoder.t5 is None


def test_the_sdxl_example_wants_for_its_base_alone(workspace: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pretrained_path: '/path/to/sdxl' is not there"):
        use(Path("params/experiments/sdxl_lora_example.yaml"))


def test_a_lora_of_a_distilled_base_is_only_warned_about(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "weights").mkdir()
    given = ["model.from_scratch=null", "model.pretrained_path=weights", *LORA]
    command.main(["use", DIGITS, *given, "model.variant=klein-4b"])
    assert "'klein-4b' is distilled to few steps, which long training" in capsys.readouterr().err
    command.main(["use", DIGITS, *given, "model.variant=klein-base-4b"])
    assert not capsys.readouterr().err


def test_what_a_lora_goes_on_from_is_known_by_its_content(digits: Use, workspace: Path) -> None:
    given = workspace / "mine.safetensors"
    save_file({"x": torch.zeros(1)}, given)
    lora = digits(*LORA, "training.lora.init_from=mine.safetensors").training.lora
    assert lora is not None
    assert lora.init_digest == digest(given)
    tree = document.load(Path("params.yaml"))
    save_file({"x": torch.ones(1)}, given)
    with pytest.raises(ValueError, match=r"training\.lora\.init_digest: .* is stale"):
        check_resolved(tree, "params.yaml")


def test_the_command_says_what_it_wrote(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["use", DIGITS, "training.steps=70"])
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "params.yaml written" in said
    assert "70 steps on data/raw/digits" in said


def test_the_command_ends_with_the_sentence_and_exit_code_one(workspace: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["use", "params/experiments/digit_flux2.yaml"])
    assert "did you mean digits_flux2.yaml?" in str(ended.value.code)


TEXTS = [
    "no",
    "007",
    "1e-05",
    "1:30",
    "null",
    "a: b # c",
    '手 é "q" it\'s',
    "- x",
    "y " * 60,
    "",
    "~",
]


def test_an_edit_by_dvc_changes_one_line_and_no_value(digits: Use) -> None:
    from dvc.utils.hydra import apply_overrides

    rows = [{"prompt": text, "width": 32, "height": 32} for text in TEXTS]
    Path("prompts.yaml").write_text(
        f"_base_: {DIGITS}\n" + dump({"sample": {"prompts": rows}, "data": {"store": "1e-05"}})
    )
    config = use(Path("prompts.yaml"))
    before = Path("params.yaml").read_text().splitlines()
    apply_overrides(Path("params.yaml"), ["training.learning_rate=0.00001"])
    after = Path("params.yaml").read_text().splitlines()
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed == [("  learning_rate: 0.002", "  learning_rate: 1e-05")]
    training = dataclasses.replace(config.training, learning_rate=1e-5)
    edited = dataclasses.replace(config, training=training)
    assert document.load(Path("params.yaml")) == dataclasses.asdict(edited)
