"""What a person should look at, in sentences that lead to the section that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stages.report_dataset import alike
from stages.report_dataset.accounts import Accounts
from stages.report_dataset.inputs import Inputs
from stages.report_dataset.sheets import enlargement
from stages.report_dataset.text import grouped, percent

MUCH_CUT = 0.2  # of a bucket's pictures on average
ROUNDING = 1.01  # factor of enlarging below which only a pixel is made up


@dataclass(frozen=True)
class Finding:
    """One sentence."""

    is_bad: bool  # rather a mistake than a choice
    text: str
    section: str  # id of the element that shows more


def find(inputs: Inputs, accounts: Accounts) -> list[Finding]:
    """List the findings, mistakes first."""
    parts = (_files, _captions, _words, _copies, _buckets)
    found = [finding for part in parts for finding in part(inputs, accounts)]
    return sorted(found, key=lambda finding: not finding.is_bad)


def count(number: int, one: str, many: str) -> str:
    """Return "1 picture is", "1 024 pictures are"."""
    return f"{grouped(number)} {one if number == 1 else many}"


def _files(inputs: Inputs, accounts: Accounts) -> Iterator[Finding]:
    if quarantined := accounts.files["quarantined"]:
        what = count(quarantined, "file is", "files are")
        yield Finding(True, f"{what} quarantined", "ledger")
    if excluded := accounts.files["excluded"]:
        yield Finding(
            False, count(excluded, "file is left aside", "files are left aside"), "ledger"
        )


def _captions(inputs: Inputs, accounts: Accounts) -> Iterator[Finding]:
    report = inputs.caption_report
    if without := report["missing_captions"] + report["empty_captions"]:
        what = count(without, "picture has no caption", "pictures have no caption")
        yield Finding(True, f"{what} and cannot be trained on", "captions")
    if lost := report["truncated_captions"]:
        what = count(lost, "caption is", "captions are")
        yield Finding(True, f"{what} longer than every text encoder reads", "captions")
    for kind, each in report["text_encoders"].items():
        if each["truncated_captions"] > lost:
            what = count(each["truncated_captions"], "caption is", "captions are")
            yield Finding(
                False, f"{what} longer than the {each['max_tokens']} tokens of {kind}", "captions"
            )
    if unclean := report["unclean_captions"]:
        what = count(unclean, "caption holds", "captions hold")
        yield Finding(True, f"{what} HTML or characters that are no text", "captions")
    if repeated := report["duplicate_captions"]:
        what = count(repeated, "caption repeats", "captions repeat")
        yield Finding(False, f"{what} another word for word", "captions")


def _words(inputs: Inputs, accounts: Accounts) -> Iterator[Finding]:
    trigger, kind = (inputs.caption_report[f"{name}_word"] for name in ("trigger", "class"))
    if trigger and (lacking := trigger["without"]["samples"]):
        what = count(lacking, "picture has", "pictures have")
        yield Finding(True, f"{what} a caption without the trigger word", "captions")
    if kind and (alone := kind.get("class_alone", {"captions": 0})["captions"]):
        what = count(alone, "caption has", "captions have")
        yield Finding(
            False, f"{what} the class word alone, which would learn what the trigger is", "captions"
        )


def _copies(inputs: Inputs, accounts: Accounts) -> Iterator[Finding]:
    leaked, exact, near = (kind(inputs).total for kind in (alike.leaked, alike.equal, alike.near))
    if leaked:
        what = count(leaked, "validation picture looks", "validation pictures look")
        yield Finding(True, f"{what} like one that is trained on", "leakage")
    if exact:
        what = count(exact, "picture is", "pictures are")
        yield Finding(False, f"{what} there more than once, caption and all", "duplicates")
    if near:
        yield Finding(
            False, f"{count(near, 'pair', 'pairs')} of pictures look nearly the same", "duplicates"
        )


def _buckets(inputs: Inputs, accounts: Accounts) -> Iterator[Finding]:
    small = sum(int(row["is_small"]) for row in inputs.bucket_report)
    if small:
        what = count(small, "bucket has", "buckets have")
        yield Finding(False, f"{what} fewer pictures than data.min_bucket_images", "buckets")
    much = [row for row in inputs.bucket_report if float(row["mean_cropped_fraction"]) > MUCH_CUT]
    if much:
        what = count(len(much), "bucket loses", "buckets lose")
        yield Finding(
            False, f"{what} more than {percent(MUCH_CUT)} of its pictures to cropping", "buckets"
        )
    factors = [enlargement(row) for row in inputs.first_crops]
    if enlarged := sum(factor > ROUNDING for factor in factors):
        what = count(enlarged, "picture is", "pictures are")
        yield Finding(
            False, f"{what} enlarged to fill a bucket, up to {max(factors):.1f} times", "sheets"
        )
