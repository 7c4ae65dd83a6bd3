"""The numbers of the page that are worth comparing between versions of a dataset."""

from __future__ import annotations

from statistics import fmean

from stages.report_dataset import alike
from stages.report_dataset.accounts import Accounts
from stages.report_dataset.inputs import Inputs
from stages.report_dataset.sheets import cropped_fraction

DIGITS = 4  # after the point


def measure(inputs: Inputs, accounts: Accounts) -> dict[str, int | float]:
    """Return them by name, flat."""
    report = inputs.caption_report
    truncated = {
        f"truncated_captions_{kind}": each["truncated_captions"]
        for kind, each in report["text_encoders"].items()
    }
    return {
        "files": accounts.num_files,
        "pictures": accounts.samples["kept"] + accounts.samples["validation"],
        "train": accounts.samples["kept"],
        "validation": accounts.samples["validation"],
        "excluded": accounts.files["excluded"],
        "quarantined": accounts.files["quarantined"],
        "visits_an_epoch": visits(inputs),
        "captions": report["captions"],
        "duplicate_captions": report["duplicate_captions"],
        "unclean_captions": report["unclean_captions"],
        "truncated_captions": report["truncated_captions"],
        **truncated,
        "buckets": len({row["bucket"] for row in inputs.bucket_report}),
        "mean_cropped_fraction": mean_cropped(inputs),
        "exact_duplicates": alike.equal(inputs).total,
        "near_duplicates": alike.near(inputs).total,
        "leaked": alike.leaked(inputs).total,
    }


def visits(inputs: Inputs) -> int:
    """Count the training items that an epoch visits, repeats included."""
    return sum(row["repeats"] for row in inputs.first_crops if row["split"] == "train")


def mean_cropped(inputs: Inputs) -> float:
    """Return what is cut off the targets on average."""
    return round(fmean(map(cropped_fraction, inputs.first_crops)), DIGITS)
