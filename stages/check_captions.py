"""Check every caption with the family's own tokenizer before anything is encoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelzoo.text_encoders.tokenization import Encoded, PromptTokenizer
from stages import launch
from stages.artifacts import read_table, write_json, write_table
from stages.base_record import read_record
from stages.params.read import key
from stages.tables import FATE_OF_SPLIT, to_table
from stages.tokenizers import open_tokenizers

NAMED = 10  # files that a message or the report names

Row = Mapping[str, Any]  # of IMAGES


@dataclass(frozen=True)
class Params:
    """How much may lack a caption."""

    family: str = key("model.type")
    train_path: str = key("data.train_path", tracked=False)  # for messages only
    max_missing_caption_fraction: float = key("data.max_missing_caption_fraction")


@dataclass(frozen=True)
class Artifacts:
    """Pictures and the base's tokenizers in; captions, a report and the fate of each sample out."""

    images: Path = Path("data/images.parquet")
    tokenizer: Path = Path("data/base/tokenizer.json")
    captions: Path = Path("data/captions.parquet")
    report: Path = Path("data/reports/captions.json")
    ledger: Path = Path("data/ledger/captions.parquet")


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Write the captions of all samples that have one, the report and the ledger."""
    rows = read_table(artifacts.images, "images").to_pylist()
    problems = {row["sample_id"]: problem(row["caption"]) for row in rows}
    without = [row for row in rows if problems[row["sample_id"]]]
    refuse_too_many(params, without, len(rows))
    kept = [row for row in rows if not problems[row["sample_id"]]]
    captions = [{"sample_id": r["sample_id"], "caption": r["caption"].strip()} for r in kept]
    paths = {row["sample_id"]: row["path"] for row in rows}
    tokenizer = open_tokenizers(params.family, read_record(artifacts.tokenizer))
    encoders = lengths(captions, paths, tokenizer)
    report = {
        "samples": len(rows),
        "missing_captions": sum(row["caption"] is None for row in rows),
        "empty_captions": sum(row["caption"] is not None for row in without),
        **duplicates(captions),
        "text_encoders": encoders,
    }
    write_table(artifacts.captions, to_table(captions, "captions"), "captions")
    write_json(artifacts.report, report)
    write_table(artifacts.ledger, to_table(ledger(rows, problems), "ledger"), "ledger")
    print(  # noqa: T201
        f"{len(captions)} captions, {report['distinct_captions']} of them distinct; "
        f"{longer(encoders)}; {len(without)} pictures excluded: see {artifacts.report}"
    )


def problem(caption: str | None) -> str:
    """Return why a caption cannot be used, or nothing."""
    if caption is None:
        return "no caption"
    return "" if caption.strip() else "empty caption"


def refuse_too_many(params: Params, without: Sequence[Row], total: int) -> None:
    """Raise when more samples than allowed, or all of them, have no caption."""
    allowed = params.max_missing_caption_fraction
    if len(without) <= allowed * total and len(without) < total:
        return
    names = ", ".join(sorted(row["path"] for row in without)[:NAMED])
    more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
    raise ValueError(
        f"{params.train_path}: {len(without)} of {total} pictures have no caption, more than "
        f"data.max_missing_caption_fraction = {allowed:g} allows: {names}{more}; write their "
        f"captions, or raise data.max_missing_caption_fraction to leave them out"
    )


def duplicates(captions: Sequence[Row]) -> dict[str, Any]:
    """Count captions that several samples share."""
    counts = Counter(row["caption"] for row in captions)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:NAMED]
    return {
        "distinct_captions": len(counts),
        "duplicate_captions": len(captions) - len(counts),
        "most_frequent": [{"caption": text, "samples": n} for text, n in most if n > 1],
    }


def lengths(
    captions: Sequence[Row], paths: Mapping[str, str], tokenizer: PromptTokenizer
) -> dict[str, Any]:
    """Count tokens as each of the base's own text encoders will get them, by its kind."""
    distinct = sorted({row["caption"] for row in captions})
    encoded = {text: tokenizer.encode(text) for text in distinct}
    report = {}
    for place, (kind, part) in enumerate(tokenizer.tokenizers.items()):
        of_kind = {text: parts[place] for text, parts in encoded.items()}
        report[kind] = {
            "max_tokens": part.max_tokens,
            **_lengths(captions, paths, of_kind),
        }
    return report


def _lengths(
    captions: Sequence[Row], paths: Mapping[str, str], encoded: Mapping[str, Encoded]
) -> dict[str, Any]:
    counts = Counter(encoded[row["caption"]].num_tokens for row in captions)
    truncated = [row for row in captions if encoded[row["caption"]].truncated]
    return {
        "truncated_captions": len(truncated),
        "truncated": sorted(paths[row["sample_id"]] for row in truncated)[:NAMED],
        "token_lengths": [{"tokens": n, "captions": counts[n]} for n in sorted(counts)],
    }


def longer(encoders: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how many captions each text encoder cuts."""
    return ", ".join(
        f"{each['truncated_captions']} longer than the {each['max_tokens']} tokens of {kind}"
        for kind, each in encoders.items()
    )


def ledger(rows: Sequence[Row], problems: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the fate of each sample, sorted by path."""
    return [
        {
            "path": row["path"],
            "sample_id": row["sample_id"],
            "stage": "check_captions",
            "fate": "excluded" if problems[row["sample_id"]] else FATE_OF_SPLIT[row["split"]],
            "reason": problems[row["sample_id"]],
        }
        for row in sorted(rows, key=lambda row: str(row["path"]))
    ]


if __name__ == "__main__":
    launch.main("check_captions", run, Params)
