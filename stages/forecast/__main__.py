"""Answer the pre-flight: read what is asked from stdin and write the needs to stdout, as JSON."""

from __future__ import annotations

import contextlib
import sys

from stages.forecast.answer import answer
from stages.needs import asked_from, to_json

if __name__ == "__main__":
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print
            needs = answer(asked_from(sys.stdin.read()))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(to_json(needs))
