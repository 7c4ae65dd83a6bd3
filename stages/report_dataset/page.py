"""The page: everything that it shows, and its HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.report_dataset import alike, charts, text
from stages.report_dataset.accounts import Accounts
from stages.report_dataset.album import Photo
from stages.report_dataset.findings import Finding, find
from stages.report_dataset.inputs import Inputs
from stages.report_dataset.metrics import measure
from stages.report_dataset.sheets import CELLS, Sheet, create_sheets

TEMPLATES = Path(__file__).parent / "templates"
REASONS = 12  # of a stage's ledger, at most
QUOTED = 180  # characters of a caption
COMMON_SIZES = 8


@dataclass(frozen=True)
class Page:
    """What the templates read."""

    train_path: str
    inputs: Inputs
    accounts: Accounts
    numbers: Mapping[str, int | float]
    findings: Sequence[Finding]
    sheets: Sequence[Sheet]
    lengths: Mapping[str, charts.Histogram]  # by text encoder
    sizes: charts.Scatter
    common_sizes: Sequence[tuple[tuple[int, int], int]]
    exact: alike.Alike
    near: alike.Alike
    leaked: alike.Alike

    @property
    def has_variants(self) -> bool:
        """Whether a picture is cut in several ways."""
        return any(cell.num_crops > 1 for sheet in self.sheets for cell in sheet.cells)

    @property
    def pictures(self) -> list[str]:
        """The paths of all pictures that are shown, in the order of the page; some twice."""
        paths = [
            shot.path
            for sheet in self.sheets
            for cell in sheet.cells
            for shot in (cell.target, *cell.others)
        ]
        kinds = (self.exact, self.near, self.leaked)
        return paths + [path for kind in kinds for group in kind.groups for path in group.paths]


def create_page(train_path: str, inputs: Inputs, accounts: Accounts) -> Page:
    """Choose what is shown."""
    sizes = [(row["width"], row["height"]) for row in inputs.targets]
    buckets = [(int(row["width"]), int(row["height"])) for row in inputs.bucket_report]
    encoders = inputs.caption_report["text_encoders"].items()
    common = sorted(Counter(sizes).items(), key=lambda item: (-item[1], item[0]))
    return Page(
        train_path=train_path,
        inputs=inputs,
        accounts=accounts,
        numbers=measure(inputs, accounts),
        findings=find(inputs, accounts),
        sheets=create_sheets(inputs),
        lengths={
            kind: charts.histogram(
                [(row["tokens"], row["captions"]) for row in each["token_lengths"]],
                each["max_tokens"],
            )
            for kind, each in encoders
        },
        sizes=charts.scatter(sizes, buckets),
        common_sizes=common[:COMMON_SIZES],
        exact=alike.equal(inputs),
        near=alike.near(inputs),
        leaked=alike.leaked(inputs),
    )


def render(page: Page, photos: Mapping[str, Photo]) -> str:
    """Return the page as one HTML file that needs no other; the same text for the same input.

    Args:
        page: What is shown.
        photos: Of all of `page.pictures`, by path.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": text.visible,
        "clipped": text.clipped,
        "grouped": text.grouped,
        "percent": text.percent,
    }
    template = environment.get_template("page.html.jinja")
    return template.render(
        page=page, photos=photos, CELLS=CELLS, GROUPS=alike.GROUPS, REASONS=REASONS, QUOTED=QUOTED
    )
