"""Which pictures a training reads beside its targets: references, masks or conditions."""

from __future__ import annotations

from collections.abc import Mapping

from stages.params.training import Training

KEYS: Mapping[str, str] = {  # what of section `data` names the pictures of a role
    "reference": "data.references",
    "mask": "data.mask",
    "condition": "data.condition",
}
OF_METHOD = {"controlnet": {"condition"}}
OF_EDITING = {"kontext": {"reference"}, "fill": {"mask"}}


def roles_read(training: Training) -> set[str]:
    """Return the roles that a training reads beside "target", of `stages.tables.ROLES`."""
    of_editing = OF_EDITING.get(training.editing or "", set())
    if training.draws_masks:
        of_editing = set()
    return OF_METHOD.get(training.method, set()) | of_editing
