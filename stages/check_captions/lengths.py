"""How long the captions are for each text encoder of the family, and what of them it cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelzoo.text_encoders.tokenization import PromptTokenizer
from stages.check_captions.limits import NAMED, Problem, first

BINS = 16  # of the captions that a text encoder takes whole
SHOWN = 200  # characters of what is cut
LENGTHS = ("length", "text_encoder", "tokens", "captions", "max_tokens")  # columns of the plot

Row = Mapping[str, Any]  # of CAPTIONS
Paths = Mapping[str, str]  # of targets, by sample id
Counts = Mapping[str, Mapping[str, int]]  # tokens of each distinct caption, by text encoder


def count_tokens(rows: Sequence[Row], tokenizer: PromptTokenizer) -> dict[str, dict[str, int]]:
    """Count the tokens of each distinct caption for each of the base's own text encoders."""
    distinct = sorted({row["caption"] for row in rows})
    return {
        kind: dict(zip(distinct, part.count(distinct), strict=True))
        for kind, part in tokenizer.tokenizers.items()
    }


def report_lengths(
    rows: Sequence[Row], paths: Paths, tokenizer: PromptTokenizer, counts: Counts
) -> dict[str, Any]:
    """Report for each text encoder how long the captions are, and what it does not see of some."""
    report = {}
    for kind, part in tokenizer.tokenizers.items():
        tokens = counts[kind]
        lengths = Counter(tokens[row["caption"]] for row in rows)
        by_length = sorted(rows, key=lambda row: (-tokens[row["caption"]], paths[row["sample_id"]]))
        cut = [row for row in rows if tokens[row["caption"]] > part.max_tokens]
        shown = sorted(cut, key=lambda row: (paths[row["sample_id"]], row["variant"]))[:NAMED]
        report[kind] = {
            "max_tokens": part.max_tokens,
            "longest_tokens": max(lengths, default=0),
            "longest": [
                {"path": paths[row["sample_id"]], "tokens": tokens[row["caption"]]}
                for row in by_length[:NAMED]
            ],
            "truncated_captions": len(cut),
            "truncated": first(paths[row["sample_id"]] for row in cut),
            "cut": [
                {
                    "path": paths[row["sample_id"]],
                    "variant": row["variant"],
                    "words": part.cut(row["caption"]).strip()[:SHOWN],
                }
                for row in shown
            ],
            "token_lengths": [{"tokens": n, "captions": lengths[n]} for n in sorted(lengths)],
        }
    return report


def lost(
    rows: Sequence[Row], paths: Paths, tokenizer: PromptTokenizer, counts: Counts
) -> list[Problem]:
    """Name the captions whose end no text encoder sees, with the room of the largest.

    Where one text encoder takes little (CLIP) and another all (T5), nothing is lost to the model.
    """
    rooms = {kind: part.max_tokens for kind, part in tokenizer.tokenizers.items()}
    return [
        Problem(paths[row["sample_id"]], _lengths(row["caption"], counts))
        for row in rows
        if all(counts[kind][row["caption"]] > room for kind, room in rooms.items())
    ]


def _lengths(caption: str, counts: Counts) -> str:
    return " and ".join(f"{tokens[caption]} tokens of {kind}" for kind, tokens in counts.items())


def histogram(report: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, int, int, int]]:
    """Yield the rows of the plot: captions by length, in bins of equal width up to each limit.

    `length` names the bin so that the names sort as the bins do; `tokens` is the bin's first.
    """
    for kind, each in report.items():
        limit = each["max_tokens"]
        width = -(-(limit + 1) // BINS)
        starts = [*range(0, limit + 1, width), limit + 1]
        captions: Counter[int] = Counter()
        for row in each["token_lengths"]:
            captions[max(start for start in starts if start <= row["tokens"])] += row["captions"]
        for start in starts:
            last = min(start + width - 1, limit)
            name = f"{start:04}-{last:04}" if start <= limit else f"over {limit}"
            yield f"{kind} {name}", kind, start, captions[start], limit


def longer(report: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how many captions each text encoder cuts."""
    return ", ".join(
        f"{each['truncated_captions']} longer than the {each['max_tokens']} tokens of {kind}"
        for kind, each in report.items()
    )
