"""How tests are dealt to processes: by file, the longest first, those of the pipeline together."""

from __future__ import annotations

from typing import Any

import pytest

TOGETHER = "tests/pipeline/"  # they share one repository in which the whole graph has run
FIRST = (TOGETHER, "tests/train/")  # whoever begins with what is short waits for these at the end


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; what is left in the end is short."""
    order = {place: number for number, place in enumerate(FIRST)}
    items.sort(
        key=lambda item: min(
            (number for place, number in order.items() if item.nodeid.startswith(place)),
            default=len(order),
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal by file in the order above, where `--dist loadfile` asks for files."""
    from xdist.scheduler import LoadFileScheduling

    class Dealer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER if nodeid.startswith(TOGETHER) else super()._split_scope(nodeid)

    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # by number of tests: a file of one long test came last
    return Dealer(config, log)
