"""DVC's own graph, in the order in which DVC would go through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.dvcfile import PROJECT_FILE
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro


@dataclass(frozen=True)
class Stage:
    """One node of the graph."""

    name: str  # as in its dvc.yaml; with the file's path where two files use the same name
    addressing: str  # what `dvc repro` takes, such as data/raw/dvc.yaml:make_digits
    upstream: tuple[str, ...]  # addressings of the stages whose outputs it reads


def plan(targets: Sequence[str] = ()) -> list[Stage]:
    """List what `dvc repro <targets>` would look at, upstream first; no target means dvc.yaml.

    Raises:
        ValueError: the graph cannot be read, a target is not in it, or this is not its root folder.
    """
    try:
        with Repo() as repo:
            if not Path(repo.root_dir).samefile(Path.cwd()):
                raise ValueError(f"start flows in the repository's root folder, {repo.root_dir!r}")
            graph = get_active_graph(repo.index.graph)
            nodes = plan_repro(graph, collect_stages(repo, targets or [PROJECT_FILE]))
            uses = Counter(getattr(node, "name", None) for node in nodes)
            return [
                Stage(
                    name=display_name(node, uses),
                    addressing=node.addressing,
                    upstream=tuple(sorted(dep.addressing for dep in graph.successors(node))),
                )
                for node in nodes
            ]
    except DvcException as error:
        raise ValueError(" ".join(str(error).split())) from error


def display_name(node: object, uses: Counter[str | None]) -> str:
    """Return a stage's short name where it is unique; a .dvc file is called by its path."""
    name = getattr(node, "name", None)
    return str(name if name and uses[name] == 1 else getattr(node, "addressing", name))
