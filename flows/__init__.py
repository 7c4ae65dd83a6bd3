"""Time: when the graph that DVC owns is run, shown, scheduled and stopped.

Importing the package turns telemetry off, unless the user's environment says otherwise: Prefect
and DVC read these variables when they are imported or started.
"""

import os

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
}.items():
    os.environ.setdefault(_name, _value)
