"""The workspace of the encoding stages' tests, to look at from the store's side."""

from tests.encode.conftest import workspace

__all__ = ["workspace"]
