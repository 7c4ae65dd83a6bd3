"""A base of any family is made or checked, and described by one record a component."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from modelzoo.checkpoints.digest import component_digest
from stages.base_record import Part, read_record, write_record
from stages.prepare_base.stage import Artifacts, Params, run
from tests import toys

FOLDERS = {
    "sdxl": {
        "denoiser": {"unet": "UNet2DConditionModel"},
        "vae": {"vae": "AutoencoderKL"},
        "text_encoder": {
            "text_encoder": "CLIPTextModel",
            "text_encoder_2": "CLIPTextModelWithProjection",
        },
        "tokenizer": {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"},
        "scheduler": {"scheduler": "EulerDiscreteScheduler"},
    },
    "flux": {
        "denoiser": {"transformer": "FluxTransformer2DModel"},
        "vae": {"vae": "AutoencoderKL"},
        "text_encoder": {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"},
        "tokenizer": {"tokenizer": "CLIPTokenizer", "tokenizer_2": "T5Tokenizer"},
        "scheduler": {"scheduler": "FlowMatchEulerDiscreteScheduler"},
    },
    "flux2": {
        "denoiser": {"transformer": "Flux2Transformer2DModel"},
        "vae": {"vae": "AutoencoderKLFlux2"},
        "text_encoder": {"text_encoder": "Qwen3ForCausalLM"},
        "tokenizer": {"tokenizer": "Qwen2Tokenizer"},
        "scheduler": {"scheduler": "FlowMatchEulerDiscreteScheduler"},
    },
    "sd3": {
        "denoiser": {"transformer": "SD3Transformer2DModel"},
        "vae": {"vae": "AutoencoderKL"},
        "text_encoder": {
            "text_encoder": "CLIPTextModelWithProjection",
            "text_encoder_2": "CLIPTextModelWithProjection",
            "text_encoder_3": "T5EncoderModel",
        },
        "tokenizer": {
            "tokenizer": "CLIPTokenizer",
            "tokenizer_2": "CLIPTokenizer",
            "tokenizer_3": "T5Tokenizer",
        },
        "scheduler": {"scheduler": "FlowMatchEulerDiscreteScheduler"},
    },
}
PART = Part("CLIPTextModel", Path("a"), "one")


def given_weights(folder: Path, family: str) -> Params:
    """Ask for a folder of weights, whose sizes are its own."""
    model = toys.section(family, folder)
    model = dataclasses.replace(
        model,
        from_scratch=None,
        pretrained_path=str(folder),
        transformer=None,
        unet=None,
        vae=None,
        text_encoder=None,
    )
    return Params(model, seed=0, threads=1, caption_extension=".txt")


@pytest.fixture(scope="module", params=FOLDERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of each family; read only."""
    base = tmp_path_factory.mktemp("base") / request.param
    toys.make_base(base, request.param)
    return base


def test_a_record_names_every_folder_with_its_class_and_digest(made: Path) -> None:
    for component, classes in FOLDERS[made.name].items():
        record = read_record(made / f"{component}.json")
        assert {name: part.class_name for name, part in record.parts.items()} == classes
        for name, part in record.parts.items():
            assert part.path == made / "model" / name
            assert part.digest == component_digest(part.path)
    assert {path.stem for path in made.glob("*.json")} == set(FOLDERS[made.name])


def test_what_was_made_is_accepted_as_given_weights(made: Path, tmp_path: Path) -> None:
    run(given_weights(made / "model", made.name), Artifacts(tmp_path / "base"))
    for component in FOLDERS[made.name]:
        ours, theirs = (read_record(b / f"{component}.json") for b in (tmp_path / "base", made))
        assert ours.parts == theirs.parts


def test_the_same_seed_makes_the_same_base(made: Path, tmp_path: Path) -> None:
    toys.make_base(tmp_path / made.name, made.name)
    for component in FOLDERS[made.name]:
        again = read_record(tmp_path / made.name / f"{component}.json")
        assert again.digest == read_record(made / f"{component}.json").digest


def test_text_encoders_of_equal_sizes_are_not_equal(made: Path) -> None:
    digests = [part.digest for part in read_record(made / "text_encoder.json").parts.values()]
    assert len(set(digests)) == len(digests)


def test_sdxl_alone_encodes_no_prompt_as_zeros(made: Path) -> None:
    settings = read_record(made / "text_encoder.json").settings
    assert settings == {"zero_empty": made.name == "sdxl"}


def test_the_record_of_tokenizers_gives_the_lengths_asked_for(made: Path) -> None:
    lengths = read_record(made / "tokenizer.json").settings["lengths"]
    assert lengths == {
        kind: sizes["max_length"] for kind, sizes in toys.MODELS[made.name]["text_encoder"].items()
    }


@pytest.mark.parametrize(
    ("parts", "settings"),
    [
        ({"a": PART, "b": dataclasses.replace(PART, digest="three")}, {"zero_empty": False}),
        ({"a": PART}, {"zero_empty": False}),
        ({"a": PART, "b": dataclasses.replace(PART, digest="two")}, {"zero_empty": True}),
    ],
    ids=["another folder's digest", "a folder fewer", "another setting"],
)
def test_a_records_digest_counts_every_folder_and_setting(
    tmp_path: Path, parts: dict[str, Part], settings: dict[str, bool]
) -> None:
    whole = {"a": PART, "b": dataclasses.replace(PART, digest="two")}
    write_record(tmp_path / "first.json", whole, {"zero_empty": False})
    write_record(tmp_path / "other.json", parts, settings)
    first, other = (read_record(tmp_path / f"{name}.json") for name in ("first", "other"))
    assert first.digest != other.digest


def test_a_records_digest_does_not_count_where_the_folders_lie(tmp_path: Path) -> None:
    for name in ("here", "there"):
        part = dataclasses.replace(PART, path=Path(name))
        write_record(tmp_path / f"{name}.json", {"a": part}, {})
    here, there = (read_record(tmp_path / f"{name}.json") for name in ("here", "there"))
    assert here.digest == there.digest
    assert here.folders == {"a": Path("here")}


@pytest.fixture
def sdxl(tmp_path: Path) -> Path:
    """An SDXL to be damaged."""
    toys.make_base(tmp_path / "made", "sdxl")
    return tmp_path / "made" / "model"


def test_weights_of_another_family_are_refused(sdxl: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'StableDiffusionXLPipeline', but model.type 'flux'"):
        run(given_weights(sdxl, "flux"), Artifacts(tmp_path / "base"))
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder_2", "tokenizer_2", "scheduler"])
def test_weights_that_lack_a_folder_are_refused(sdxl: Path, tmp_path: Path, part: str) -> None:
    shutil.rmtree(sdxl / part)
    with pytest.raises(FileNotFoundError, match=part):
        run(given_weights(sdxl, "sdxl"), Artifacts(tmp_path / "base"))
    assert not (tmp_path / "base").exists()


def test_an_index_without_a_word_of_it_encodes_no_prompt_as_the_empty_one(
    sdxl: Path, tmp_path: Path
) -> None:
    index = json.loads((sdxl / "model_index.json").read_text())
    del index["force_zeros_for_empty_prompt"]
    (sdxl / "model_index.json").write_text(json.dumps(index))
    run(given_weights(sdxl, "sdxl"), Artifacts(tmp_path / "base"))
    assert read_record(tmp_path / "base/text_encoder.json").settings == {"zero_empty": False}
