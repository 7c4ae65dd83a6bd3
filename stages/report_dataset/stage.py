"""Show the dataset on one page, and hold the ledgers to their sums."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.artifacts import write_json, write_text
from stages.params.read import key
from stages.report_dataset.accounts import balance
from stages.report_dataset.album import check_sizes, photograph
from stages.report_dataset.inputs import Places, read_inputs
from stages.report_dataset.page import create_page, render


@dataclass(frozen=True)
class Params:
    """Where the pictures are, and how they are opened."""

    train_path: str = key("data.train_path")
    background: str = key("data.background")
    max_pixels: int = key("data.max_pixels")


@dataclass(frozen=True)
class Artifacts:
    """Tables, ledgers and reports of the stages before in; a page and its numbers out."""

    images: Path = Path("data/images.parquet")
    captions: Path = Path("data/captions.parquet")
    buckets: Path = Path("data/buckets.parquet")
    ingest_ledger: Path = Path("data/ledger/ingest.parquet")
    captions_ledger: Path = Path("data/ledger/captions.parquet")
    bucket_ledger: Path = Path("data/ledger/bucket.parquet")
    ingest_report: Path = Path("data/reports/ingest.json")
    caption_report: Path = Path("data/reports/captions.json")
    bucket_report: Path = Path("data/reports/buckets.csv")
    page: Path = Path("data/reports/dataset.html")
    metrics: Path = Path("data/reports/dataset.json")

    @property
    def places(self) -> Places:
        """Where the inputs are."""
        ledgers = {
            "ingest": self.ingest_ledger,
            "check_captions": self.captions_ledger,
            "bucket": self.bucket_ledger,
        }
        return Places(
            self.images,
            self.captions,
            self.buckets,
            ledgers,
            self.ingest_report,
            self.caption_report,
            self.bucket_report,
        )


def run(params: Params, artifacts: Artifacts = Artifacts()) -> None:
    """Write the page and the metrics.

    Raises:
        ValueError: The ledgers and tables contradict each other, or a picture has changed.
    """
    inputs = read_inputs(artifacts.places)
    accounts = balance(inputs)
    page = create_page(params.train_path, inputs, accounts)
    photos = photograph(
        Path(params.train_path), page.pictures, params.background, params.max_pixels
    )
    check_sizes(photos, {row["path"]: (row["width"], row["height"]) for row in inputs.images})
    text = render(page, photos)
    write_text(artifacts.page, text)
    write_json(artifacts.metrics, dict(page.numbers))
    print(  # noqa: T201
        f"{accounts.num_files} files: {page.numbers['train']} pictures to train on, "
        f"{page.numbers['validation']} to validate, {len(page.findings)} things to look at, "
        f"{len(photos)} pictures shown in {len(text.encode()) / 1e6:.1f} MB: see {artifacts.page}"
    )
