"""Check every caption, draw its variants, and report what the text encoders will make of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from stages.artifacts import read_table, write_csv, write_json, write_table
from stages.base_record import read_record
from stages.check_captions import lengths, limits, variants, words, written
from stages.check_captions.limits import Limit, Problem
from stages.class_images import FOLDER, read_index
from stages.params.captions import Captions
from stages.params.read import key
from stages.tables import FATE_OF_SPLIT, to_table
from stages.tokenizers import open_tokenizers

COLUMNS = ["sample_id", "path", "captions", "split", "prior"]  # of IMAGES

Sample = Mapping[str, Any]  # COLUMNS of a target


@dataclass(frozen=True)
class Params:
    """What is made of the captions, and how much may be wrong with them."""

    family: str = key("model.type")
    train_path: str = key("data.train_path", tracked=False)  # for messages only
    max_missing_caption_fraction: float = key("data.max_missing_caption_fraction")
    captions: Captions = key("data.captions")
    seed: int = key("data.seed")


@dataclass(frozen=True)
class Artifacts:
    """Pictures, prior and the base's tokenizers in; captions, reports and fates out."""

    images: Path = Path("data/images.parquet")
    tokenizer: Path = Path("data/base/tokenizer.json")
    captions: Path = Path("data/captions.parquet")
    report: Path = Path("data/reports/captions.json")
    ledger: Path = Path("data/ledger/captions.parquet")
    lengths: Path = Path("data/reports/caption_lengths.csv")
    class_images: Path = FOLDER  # of DreamBooth's prior


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Write the captions of all samples that have one, the reports and the ledger."""
    samples = read_samples(artifacts.images)
    collected = [each for each in samples if not each["prior"]]
    excluded = {each["sample_id"]: written.problem(each["captions"]) for each in samples}
    refuse_missing(params, collected, excluded)
    captions = written.written_captions(collected)
    cleanliness = check_written(params, captions)
    rows = variants.variants(captions, params.captions, params.seed, params.train_path)
    paths = {each.sample_id: each.path for each in captions}
    words.refuse_too_few(rows, paths, params.captions, params.train_path)
    prior = read_index(artifacts.class_images)
    words.refuse_without_rare(rows, paths, prior, params.train_path)
    trigger = words.count_words(rows, paths, params.captions)
    rows, paths = with_class(rows, paths, samples)
    tokenizer = open_tokenizers(params.family, read_record(artifacts.tokenizer))
    counts = lengths.count_tokens(rows, tokenizer)
    lost = lengths.lost(rows, paths, tokenizer, counts)
    truncation(params.captions).hold(params.train_path, lost, len(rows))
    encoders = lengths.report_lengths(rows, paths, tokenizer, counts)
    report = {
        **count_samples(samples, excluded),
        **cleanliness,
        "captions": len(rows),
        "distinct_texts": len({row["caption"] for row in rows}),
        "truncated_captions": len(lost),
        "text_encoders": encoders,
        **trigger,
    }
    write_table(artifacts.captions, to_table(rows, "captions"), "captions")
    write_json(artifacts.report, report)
    write_csv(artifacts.lengths, lengths.LENGTHS, lengths.histogram(encoders))
    write_table(artifacts.ledger, to_table(ledger(samples, excluded), "ledger"), "ledger")
    print(  # noqa: T201
        f"{len(rows)} captions, {report['distinct_texts']} of them distinct; "
        f"{lengths.longer(encoders)}; {len(samples) - len(paths)} pictures excluded: "
        f"see {artifacts.report}"
    )


def read_samples(images: Path) -> list[Sample]:
    """Read the targets, which alone have captions."""
    table = read_table(images, "images")
    return list(table.filter(pc.field("role") == "target").select(COLUMNS).to_pylist())


def with_class(
    rows: Sequence[dict[str, Any]], paths: Mapping[str, str], samples: Sequence[Sample]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Add the pictures of the class, whose captions are encoded as the base was told them.

    Returns:
        The rows of CAPTIONS, and the paths of all samples that have one.
    """
    of_class = {each["sample_id"]: each for each in samples if each["prior"]}
    told: list[dict[str, Any]] = [
        {"sample_id": name, "variant": 0, "caption": each["captions"][0].strip()}
        for name, each in of_class.items()
    ]
    ordered = sorted([*rows, *told], key=lambda row: (row["sample_id"], row["variant"]))
    return ordered, {**paths, **{name: each["path"] for name, each in of_class.items()}}


def refuse_missing(params: Params, samples: Sequence[Sample], excluded: Mapping[str, str]) -> None:
    """Raise when more samples than allowed, or all of them, have no caption."""
    without = [Problem(each["path"]) for each in samples if excluded[each["sample_id"]]]
    limit = Limit(
        "data.max_missing_caption_fraction",
        params.max_missing_caption_fraction,
        "pictures have no caption",
        "write their captions, or raise data.max_missing_caption_fraction to leave them out",
    )
    limit.hold(params.train_path, without, len(samples))
    if len(without) == len(samples):
        raise ValueError(
            f"{params.train_path}: {len(without)} of {len(samples)} pictures have no caption, "
            f"which leaves nothing to train on: {limits.named(without)}; write their captions"
        )


def check_written(params: Params, captions: Sequence[written.Written]) -> dict[str, Any]:
    """Report what a user can mend in the captions, and hold it to its limits."""
    unclean, defects = written.unclean(captions)
    duplicates, repeated = written.duplicates(captions)
    Limit(
        "data.captions.max_unclean_fraction",
        params.captions.max_unclean_fraction,
        "captions hold HTML or characters that are no text",
        "take them out, or raise data.captions.max_unclean_fraction to keep them",
    ).hold(params.train_path, defects, len(captions))
    Limit(
        "data.captions.max_duplicate_fraction",
        params.captions.max_duplicate_fraction,
        "captions repeat another",
        "write what differs, or raise data.captions.max_duplicate_fraction",
    ).hold(params.train_path, repeated, len(captions))
    return {"written_captions": len(captions), **unclean, **duplicates}


def truncation(settings: Captions) -> Limit:
    """Return the limit of captions whose end no text encoder sees."""
    return Limit(
        "data.captions.max_truncated_fraction",
        settings.max_truncated_fraction,
        "captions are longer than any text encoder takes",
        "shorten them, raise model.text_encoder's max_length where the model allows it, or raise "
        "data.captions.max_truncated_fraction",
    )


def count_samples(samples: Sequence[Sample], excluded: Mapping[str, str]) -> dict[str, Any]:
    """Count the samples that lack captions, and name them and those that lack one of several."""
    reasons = Counter(excluded.values())
    without = (each["path"] for each in samples if excluded[each["sample_id"]])
    some_blank = (
        each["path"]
        for each in samples
        if not excluded[each["sample_id"]] and not all(map(str.strip, each["captions"]))
    )
    return {
        "samples": len(samples),
        "missing_captions": reasons["no caption"],
        "empty_captions": reasons["empty caption"],
        "without_caption": limits.first(without),
        "with_a_blank_caption": limits.first(some_blank),  # its other captions are used
    }


def ledger(samples: Sequence[Sample], excluded: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the fate of each sample, sorted by path."""
    return [
        {
            "path": each["path"],
            "sample_id": each["sample_id"],
            "stage": "check_captions",
            "fate": "excluded" if excluded[each["sample_id"]] else FATE_OF_SPLIT[each["split"]],
            "reason": excluded[each["sample_id"]],
        }
        for each in sorted(samples, key=lambda each: str(each["path"]))
    ]
